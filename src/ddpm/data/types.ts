import type { ImageSet } from '../../images.ts';

/** Images in memory, with what is known of them: what `openDataset` returns. `labels` are absent for an unlabelled folder. */
export type Dataset = ImageSet & {
  name: string;
  channels: 1 | 3;
  classNames: string[];
  /** Site of each image, for site-labelled records. */
  sites?: Int32Array;
  siteNames?: string[];
  /** sha256 over sizes, pixels, labels and sites: a resume refuses other data. */
  fingerprint: string;
};
