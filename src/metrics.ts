/**
 * 'phoenix/metrics': metrics of samples. A FeatureSource turns images into features, and each metric compares features. docs/metrics.md has
 * the definitions, docs/judge-samples.md says what each can tell.
 */

// Features: of pixels, of a network in a file, or of a classifier that is trained on your own images.

export { type ClassifierOptions, classifierNetwork, trainClassifier } from './ddpm/metrics/classifier.ts';
export type { FeatureNetwork, RunNetworkOptions } from './ddpm/metrics/feature-network.ts';
export { type Features, featureMatrix, type MetricOptions, pickRows } from './ddpm/metrics/features.ts';
export { featureNetwork } from './ddpm/metrics/network.ts';
export { type FeatureSource, featureSource, pixels8, sourceOf } from './ddpm/metrics/sources.ts';
export type { ImageSet } from './images.ts';

// Distances between two sets of images: how far their distributions are apart.

export { frechetDistance, type Moments, moments } from './ddpm/metrics/frechet.ts';
export { type KernelDistanceOptions, kernelDistance } from './ddpm/metrics/kernel-distance.ts';

// Quality and coverage: whether samples look real, and whether every mode is covered.

export { binCounts, type ClusterOptions, type Clusters, differentBins, jensenShannon, kMeans } from './ddpm/metrics/bins.ts';
export { accuracy, classCoverage, inceptionScore, predictedClasses } from './ddpm/metrics/classes.ts';
export { type Logistic, type LogisticOptions, logisticLogits, logisticRegression } from './ddpm/metrics/logistic.ts';
export { classRecall, densityCoverage, type NeighbourOptions, precisionRecall } from './ddpm/metrics/neighbours.ts';
export { vendiScore } from './ddpm/metrics/vendi.ts';

// Copying: whether samples are training images.

export { memorisation } from './ddpm/metrics/neighbours.ts';

// Names under which values may be compared.

export { type MetricKind, metricName } from './ddpm/metrics/index.ts';
