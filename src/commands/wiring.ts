/** What a federation is made of, as the options say: strategy, server step, shared set, client statistics. */
import type { Session } from '../bindings/session.ts';
import type { DatasetSource } from '../ddpm/data/index.ts';
import type { FeatureSource } from '../ddpm/metrics/sources.ts';
import { drawSamples, toPixels } from '../ddpm/sample.ts';
import { type ServerStep, serverSteps } from '../fl/server/server-step.ts';
import type { Probing, Sharing } from '../fl/server/supplies.ts';
import { filtered } from '../fl/strategies/filter.ts';
import { strategies } from '../fl/strategies/index.ts';
import type { Strategy } from '../fl/strategy.ts';
import { classesInTurn, readAt, valuesAt } from '../images.ts';
import { streamKey } from '../rng.ts';
import type { Shared } from './deal.ts';
import type { Settings } from './options/index.ts';
import type { Prepared } from './prepare.ts';

/** The published values of the kind, with what the options say otherwise. */
export function serverStepOf({ serverStep }: Pick<Settings<'federate'>, 'serverStep'>): ServerStep {
  const published = serverSteps[serverStep.kind];
  return {
    kind: serverStep.kind,
    lr: serverStep.lr ?? published.lr,
    beta1: serverStep.beta1 ?? published.beta1,
    beta2: serverStep.beta2 ?? published.beta2,
    tau: serverStep.tau ?? published.tau,
  };
}

/** The strategy that the options name, behind the filter that they ask for. */
export function strategyOf({
  strategy,
  hostile,
  diversity,
  filter,
}: Pick<Settings<'federate'>, 'strategy' | 'hostile' | 'diversity' | 'filter'>): Strategy {
  const base = typeof strategy === 'string' ? strategies[strategy]({ hostile, ...diversity }) : strategy;
  if (filter.kind === 'none') return base;
  const { kind, by: statistic, threshold, cohort, guard } = filter;
  return filtered(base, { kind, statistic, threshold, cohort, guard }) as Strategy;
}

/** Images of which bins are made, if there are such images and no bins yet. */
export type Reference = { dataset: DatasetSource; reference: Int32Array | undefined; signal: AbortSignal | undefined };

/** What the strategy asks of the clients. */
export async function probingOf(
  { probe, histogram }: Pick<Settings<'federate'>, 'probe' | 'histogram'>,
  features: FeatureSource,
  from?: Reference,
): Promise<Probing> {
  return {
    ...probe,
    histogramOf: histogram.of,
    histogramNoise: histogram.noise,
    bins: histogram.bins,
    reference: from?.reference && (await features.extract(await readAt(from.dataset, from.reference), { signal: from.signal })),
  };
}

/** The shared set: images of the dataset, or a way to draw them from the global model. */
export async function sharingOf(
  settings: Settings<'federate'>,
  prepared: Prepared,
  session: Session,
  shared: Shared,
): Promise<Sharing | undefined> {
  const { count, images } = shared;
  const { alpha, every } = settings.sharing;
  const { dataset, classes, emptyClasses, unet, noise, hyper } = prepared;
  if (count === 0) return undefined;
  if (images) {
    return { alpha, set: { ...(await readAt(dataset, images)), classes: classes && valuesAt(classes, images) } };
  }
  const drawn = classesInTurn(count, unet.numClasses, emptyClasses);
  return {
    alpha,
    every,
    async draw({ ema: weights }, round, signal) {
      const key = streamKey(settings.seed, 'shared set', round);
      const { steps } = settings.probe;
      const batch = Math.min(count, hyper.batch);
      const values = await drawSamples({ session, noise, count, batch, steps, key, weights, classes: drawn, signal });
      return { count, pixels: toPixels(values), classes: drawn };
    },
  };
}
