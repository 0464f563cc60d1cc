/** The page beside a published model: what it was trained on and how, in Markdown. It names no site. */
import type { RoundRecord } from '../../fl/protocol.ts';
import type { Spec } from '../../net/spec.ts';
import { formatCount } from '../../report/units.ts';

export type CardFacts = {
  spec: Spec;
  /** The rounds that were done. */
  records: RoundRecord[];
  /** Optimizer steps and images behind the model. */
  steps: number;
  images: number;
  strategy: string;
  /** How the server applies the mean update, and how its EMA decays. */
  serverStep: string;
  emaDecay: number;
  /** What a site trains in a round, in words. */
  length: string;
  batch: number;
  lr: number;
  /** Versions of Phoenix: of the coordinator, and of the sites. */
  phoenix: string;
  siteVersions: string[];
  /** Text of the operator's licence. */
  licence?: string;
};

const NO_LICENCE = 'The operator has given no licence with this model. Ask before you use it for anything else, or pass it on.';

/** Equal facts give equal bytes: there is no date in it. */
export function modelCard(facts: CardFacts): string {
  const { spec, records, licence = NO_LICENCE } = facts;
  const { data, run, federation } = spec;
  const rows: [string, string][] = [
    ...trainedOn(facts),
    ['images', `${data.width}x${data.height}, ${data.channels === 1 ? 'gray' : 'RGB'}${data.range ? `, values ${data.range}` : ''}`],
    ['classes', data.classNames ? data.classNames.map(cell).join(', ') : 'none'],
    ['parameters', formatCount(spec.parameterCount)],
    ['weights', `exponential moving average, decay ${facts.emaDecay}`],
    ['noise', `${spec.noise.kind}, ${spec.noise.steps} steps, the network predicts ${spec.noise.prediction}`],
    ['strategy', `${facts.strategy}; server step ${facts.serverStep}`],
    ['local training', `${facts.length} per round, batch ${facts.batch}, learning rate ${facts.lr}`],
    ['seed', String(spec.seed)],
    ['Phoenix', `${facts.phoenix}; at the sites ${facts.siteVersions.join(', ') || 'unknown'}`],
  ];
  return [
    `# Model of the run ${run} of ${federation}, round ${records.length}`,
    '',
    'A diffusion model that was trained where the images are: they have not left their sites.',
    '',
    '| | |',
    '|---|---|',
    ...rows.map(([name, value]) => `| ${name} | ${value} |`),
    '',
    '## What was shared',
    '',
    ...shared(spec).map((line) => `- ${line}`),
    '',
    '## Limits',
    '',
    'Samples may resemble images of the sites, and may be copies. There was no differential privacy.',
    'Samples are no evidence: they show nobody.',
    '',
    '## Licence',
    '',
    licence.trimEnd(),
    '',
  ].join('\n');
}

/** A name of elsewhere as the cell of a table. */
const cell = (text: string) => text.replace(/[\p{Cc}\\|<>`*_[\]]+/gu, ' ');

function trainedOn({ records, steps, images }: CardFacts): [string, string][] {
  const examples = new Map<string, number>();
  for (const { clients } of records)
    for (const { client, examples: all, shared: given = 0, weight } of clients) if (weight > 0) examples.set(client, all - given);
  const own = [...examples.values()].reduce((sum, count) => sum + count, 0);
  return [
    ['trained on', `${formatCount(own)} images of ${formatCount(examples.size)} sites`],
    ['rounds', formatCount(records.length)],
    ['images drawn', formatCount(images)],
    ['optimizer steps', formatCount(steps)],
  ];
}

function shared({ plan, personal, features, shared: set }: Spec): string[] {
  const asked = plan.probe && [
    ...(plan.probe.statistic ? [`the score ${plan.probe.statistic}`] : []),
    ...(plan.probe.vendi ? ['the variety of samples'] : []),
    ...(plan.probe.histogram ? [`histograms of ${plan.probe.histogram.bins} bins`] : []),
    ...(plan.probe.points ? ['centres of clusters of images'] : []),
  ];
  return [
    `Updates of the model, compression ${plan.compress}, and a report with counts and losses, from each site in each round.`,
    ...(asked && asked.length > 0
      ? [`Every ${plan.probe!.every} rounds ${asked.join(', ')}${features ? `, by ${features.name}` : ''}.`]
      : []),
    set
      ? `Each site also trained on ${formatCount(set.each)} of ${formatCount(set.images)} images of the operator, who states that they are public.`
      : 'No images were shared.',
    personal
      ? `${formatCount(personal.values)} parameters stayed at each site (${personal.patterns.join(', ')}): each has a model of its own.`
      : 'No layers stayed at the sites: all have the same model.',
  ];
}
