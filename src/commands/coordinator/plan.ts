/** The spec of a run, from the options of the coordinator and what the sites say of their data. */
import { z } from 'zod';
import { naturalOrder, showNames } from '../../ddpm/data/classes.ts';
import type { FeatureSource } from '../../ddpm/metrics/sources.ts';
import { PhoenixError } from '../../errors.ts';
import type { ParameterSplit } from '../../fl/site/personal.ts';
import type { Strategy } from '../../fl/strategy.ts';
import { mostBytes } from '../../fl/wire/codec.ts';
import { type AboutData, aboutData, type Spec } from '../../net/spec.ts';
import { formatBytes } from '../../report/units.ts';
import type { Settings } from '../options/index.ts';
import type { DataShape, PreparedModel } from '../prepare.ts';

/** A site that is there, with what it says of its data. */
export type Present = { id: string; about: AboutData };

/** What a site says of its data, if it says it in a way that is understood. */
export function aboutOf(about: Record<string, unknown> | undefined): AboutData | undefined {
  return z.safeParse(aboutData, about).data;
}

/**
 * The images that the run is for. @throws PhoenixError ERR_PHOENIX_CONFIG naming sites that do not fit together, and the option that
 * decides
 */
export function shapeOf({ size, range, classConditional }: Settings<'coordinator'>, sites: Present[]): DataShape & { range?: string } {
  const channels = Math.max(...sites.map(({ about }) => about.channels)) as 1 | 3;
  const side = size === undefined ? commonSize(sites) : { height: size, width: size };
  if (!classConditional) return { ...side, channels, range };
  const without = sites.filter(({ about }) => about.classNames.length === 0);
  if (without.length > 0)
    throw new PhoenixError(
      'ERR_PHOENIX_CONFIG',
      `classConditional (--class-conditional) needs labelled images, but ${without.map(({ id }) => id).join(', ')} has none.`,
    );
  const classNames = [...new Set(sites.flatMap(({ about }) => about.classNames))].sort(naturalOrder);
  return { ...side, channels, range, classNames };
}

function commonSize(sites: Present[]): { height: number; width: number } {
  const sizes = new Set(sites.map(({ about: { height, width } }) => (height && width ? `${height}x${width}` : 'several sizes')));
  const [{ height, width } = {}] = sites.map(({ about }) => about);
  if (sizes.size === 1 && height && width) return { height, width };
  const said = sites.map(({ id, about }) => `${id} ${about.height && about.width ? `${about.height}x${about.width}` : 'several sizes'}`);
  throw new PhoenixError(
    'ERR_PHOENIX_CONFIG',
    `The images of the sites have different sizes (${said.join(', ')}): say which the run is for (--size).`,
  );
}

export type Planned = {
  federation: string;
  settings: Settings<'coordinator'>;
  shape: DataShape & { range?: string };
  prepared: PreparedModel;
  parameterCount: number;
  strategy: Strategy;
  features: FeatureSource;
  personal?: string[];
  split?: ParameterSplit;
  shared?: Spec['shared'];
  cohort: number;
};

/** What sites will be told. */
export function specOf({
  federation,
  settings,
  shape,
  prepared,
  parameterCount,
  strategy,
  features,
  personal,
  split,
  shared,
  cohort,
}: Planned): Spec {
  const { run, seed, rounds, images, compress, probe, histogram } = settings;
  const { kind, steps, betaStart, betaEnd, prediction } = prepared.noise;
  const { height, width, channels, range, classNames } = shape;
  const { needs } = strategy;
  const asks = needs && (needs.statistic || needs.vendi || needs.histogram);
  return {
    schema: 1,
    federation,
    run,
    seed,
    data: { height, width, channels: channels as 1 | 3, ...(range && { range }), ...(classNames && { classNames }) },
    unet: prepared.unet,
    noise: { kind, steps, betaStart, betaEnd, prediction },
    parameterCount,
    ...(split && personal && { personal: { patterns: personal, values: split.personalCount } }),
    ...(shared && { shared }),
    ...(asks && { features: { name: features.name, fingerprint: features.fingerprint } }),
    capabilities: asks ? ['probe/1'] : [],
    plan: {
      ...(images === undefined && rounds !== 'open' && { rounds }),
      compress: compress.updates,
      ...(compress.tasks !== 'none' && { tasks: compress.tasks }),
      cohort,
      ...(asks && {
        probe: {
          ...(needs.statistic && { statistic: needs.statistic }),
          vendi: needs.vendi === true,
          ...(needs.histogram && { histogram: { bins: histogram.bins } }),
          points: needs.histogram === true && histogram.of === 'data' && !shared,
          every: probe.every,
        },
      }),
    },
  };
}

/** A spec as lines for the operator, who confirms it. */
export function specText({ run, data, parameterCount, personal, shared, features, plan }: Spec, sites: Present[]): string[] {
  const travelling = parameterCount - (personal?.values ?? 0);
  const images = sites.reduce((sum, { about }) => sum + about.images, 0);
  return [
    `run ${run}: ${sites.length} sites with ${images} images (${sites.map(({ id, about }) => `${id} ${about.images}`).join(', ')})`,
    `images ${data.width}x${data.height}, ${data.channels === 1 ? 'gray' : 'RGB'}${data.range ? `, values ${data.range}` : ''}`,
    ...(data.classNames ? [`classes ${showNames(data.classNames)}`] : []),
    `${parameterCount} parameters${personal ? `, ${personal.values} of them personal` : ''}; updates ${plan.compress}, models ${plan.tasks ?? 'float32'}`,
    `in a round each site receives ${formatBytes(mostBytes(plan.tasks ?? 'none', travelling))} and sends at most ${formatBytes(mostBytes(plan.compress, travelling))}, and a few kilobytes more`,
    ...(shared
      ? [
          `shared set: ${shared.images} images of the coordinator, which its operator states to be public; each site receives ${shared.each}`,
        ]
      : []),
    ...(features ? [`statistics by ${features.name}`] : []),
    `${plan.rounds === undefined ? 'until it is told to finish' : `${plan.rounds} rounds`}, none averaged from fewer than ${plan.cohort} sites`,
  ];
}
