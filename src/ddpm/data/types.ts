/** Images in memory: what every reader of this folder returns. */
export type Dataset = {
  name: string;
  height: number;
  width: number;
  channels: 1 | 3;
  /** Number of images. */
  count: number;
  /** count·height·width·channels bytes, (N,H,W,C). */
  pixels: Uint8Array;
  /** Class of each image; absent for an unlabelled folder. */
  labels?: Int32Array;
  classNames: string[];
  /** Site of each image, for site-labelled records. */
  sites?: Int32Array;
  siteNames?: string[];
  /** sha256 over sizes, pixels, labels and sites: a resume refuses other data. */
  fingerprint: string;
};
