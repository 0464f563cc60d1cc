/** What a reader of one kind of data is: index.ts lists them all, types.ts has what comes out. */
import type { ImageSize } from '../../images.ts';
import type { ValueRange } from './range.ts';
import type { DatasetNotes } from './types.ts';

export type Split = 'train' | 'test';
export type Size = Pick<ImageSize, 'height' | 'width'>;

export type ImageStream = ImageSize & {
  channels: 1 | 3;
  /** The values that became 0 and 255, where a range was asked for. */
  range?: [number, number];
  /** Images in order, each height·width·channels bytes (H,W,C). A view stays valid until the next image is asked for. */
  images: AsyncIterable<Uint8Array>;
};

/** How far reading has come: files whose headers, values or pixels were read. */
export type ReadProgress = { stage: 'headers' | 'values' | 'images'; done: number; total: number };

/** Who looks on while images are read. */
export type Watch = {
  /** Stops reading after the image that is being read. */
  signal?: AbortSignal;
  onProgress?(progress: ReadProgress): void;
};

/** A data set whose labels are known and checked, and none of whose pixels are in memory yet. */
export type Listing = {
  /** Number of images. */
  count: number;
  labels?: Int32Array;
  classNames: string[];
  sites?: Int32Array;
  siteNames?: string[];
  /** What there is to say; reading the images may add to it. */
  notes?: DatasetNotes;
  /** Whether `open` costs about as much as the images it gives: it can be asked for a few at a time. */
  inWindows: boolean;
  /** The images at these ascending positions. */
  open(positions: Int32Array, watch?: Watch): Promise<ImageStream>;
};

export type ListOptions = {
  split: Split;
  size?: Size;
  channels?: 1 | 3;
  /** Only a reader that `takesRange` is asked for one. */
  range?: ValueRange;
  signal?: AbortSignal;
};

export type Reader = {
  /** What makes a path this kind, for the error about a path that is no kind. */
  looksFor: string;
  /** Whether it reads values beyond 8 bits. */
  takesRange?: true;
  /** `entries`: sorted names in the folder, absent if the path is no folder. */
  detect(path: string, entries: string[] | undefined): boolean | Promise<boolean>;
  /**
   * Reads labels and checks lengths. A reader that can produce images of the wanted `size` or `channels` itself does so; others give
   * what they have.
   */
  list(path: string, options: ListOptions): Promise<Listing>;
};
