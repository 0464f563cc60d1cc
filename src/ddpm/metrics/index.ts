/** Metrics of generative models, plain functions on features: docs/metrics.md says what each can tell and what it cannot. */
import { PhoenixError } from '../../errors.ts';
import { checkInteger } from './features.ts';

export { binCounts, type ClusterOptions, type Clusters, differentBins, jensenShannon, kMeans } from './bins.ts';
export { accuracy, classCoverage, inceptionScore, predictedClasses } from './classes.ts';
export { type ClassifierOptions, classifierNetwork, trainClassifier } from './classifier.ts';
export type { FeatureNetwork, RunNetworkOptions } from './feature-network.ts';
export { type Features, featureMatrix, type MetricOptions, pickRows } from './features.ts';
export { frechetDistance, type Moments, moments } from './frechet.ts';
export { type KernelDistanceOptions, kernelDistance } from './kernel-distance.ts';
export { type Logistic, type LogisticOptions, logisticLogits, logisticRegression } from './logistic.ts';
export { classRecall, densityCoverage, memorisation, type NeighbourOptions, precisionRecall } from './neighbours.ts';
export { featureNetwork } from './network.ts';

/**
 * What is measured, as the first part of a metric's name. `fd`: Fréchet distance, `kd`: kernel distance, `is`: Inception Score's formula.
 */
export const metricKinds = [
  'fd',
  'kd',
  'precision',
  'recall',
  'density',
  'coverage',
  'ndb',
  'jsd',
  'classes',
  'entropy',
  'is',
  'memorised',
  'nearest',
] as const;
export type MetricKind = (typeof metricKinds)[number];

/**
 * A metric's full name, kind_network_samples: fd_resnet56_10k, kd_own_2500. Values under different names must not be compared.
 * @throws PhoenixError ERR_PHOENIX_ARGUMENT for a kind or network that cannot be part of a name
 */
export function metricName(kind: MetricKind, network: string, samples: number): string {
  checkInteger('metricName: samples', samples, 1, 1e12);
  if (!metricKinds.includes(kind) || !/^[a-z][a-z0-9]*$/.test(network))
    throw new PhoenixError(
      'ERR_PHOENIX_ARGUMENT',
      `metricName needs one of ${metricKinds.join(', ')} and a network's name in small letters and digits, not "${kind}" and "${network}".`,
    );
  return `${kind}_${network}_${samples % 1000 === 0 ? `${samples / 1000}k` : samples}`;
}
