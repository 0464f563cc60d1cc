import type { ImageSet, ImageSize, ImageSource } from '../../images.ts';

/** Something that lies in a data set's folder and is not used: '12 deeper down', with some of their names. */
export type LeftOut = { count: number; what: string; examples: string[] };

/** What a user should know about how a data set was read. */
export type DatasetNotes = {
  leftOut: LeftOut[];
  /** What may not be meant so, a sentence each. */
  warnings: string[];
};

/** A data set without its pixels. */
export type DatasetFacts = ImageSize & {
  name: string;
  count: number;
  channels: 1 | 3;
  /** Class of each image; absent for an unlabelled folder. */
  labels?: Int32Array;
  classNames: string[];
  /** Site of each image, for site-labelled records and folders of sites. */
  sites?: Int32Array;
  siteNames?: string[];
  /** The values that became the pixels 0 and 255, where a range was asked for. */
  range?: [number, number];
  notes?: DatasetNotes;
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
