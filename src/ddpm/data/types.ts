import type { ImageSet, ImageSize, ImageSource } from '../../images.ts';

/** A data set without its pixels. */
export type DatasetFacts = ImageSize & {
  name: string;
  count: number;
  channels: 1 | 3;
  /** Class of each image; absent for an unlabelled folder. */
  labels?: Int32Array;
  classNames: string[];
  /** Site of each image, for site-labelled records. */
  sites?: Int32Array;
  siteNames?: string[];
  /** sha256 over sizes, pixels, labels and sites: a resume refuses other data. */
  fingerprint: string;
};

/** A data set in memory. */
export type Dataset = DatasetFacts & ImageSet;

/**
 * A data set whose images are read when they are wanted: from its files where that is quick, else from memory. Its files must stay as they
 * are.
 */
export type DatasetSource = DatasetFacts & ImageSource;
