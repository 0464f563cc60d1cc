/** What a reader of one kind of data is: index.ts lists them all, types.ts has what comes out. */
import type { ImageSize } from '../../images.ts';

export type Split = 'train' | 'test';
export type Size = Pick<ImageSize, 'height' | 'width'>;

export type ImageStream = ImageSize & {
  channels: 1 | 3;
  /** Images in order, each height·width·channels bytes (H,W,C). A view stays valid until the next image is asked for. */
  images: AsyncIterable<Uint8Array>;
};

/** A data set whose labels are known and checked, and none of whose pixels are in memory yet. */
export type Listing = {
  /** Number of images. */
  count: number;
  labels?: Int32Array;
  classNames: string[];
  sites?: Int32Array;
  siteNames?: string[];
  /** Whether `open` costs about as much as the images it gives: it can be asked for a few at a time. */
  inWindows: boolean;
  /** The images at these ascending positions. */
  open(positions: Int32Array): Promise<ImageStream>;
};

export type Reader = {
  /** What makes a path this kind, for the error about a path that is no kind. */
  looksFor: string;
  /** `entries`: sorted names in the folder, absent if the path is no folder. */
  detect(path: string, entries: string[] | undefined): boolean | Promise<boolean>;
  /**
   * Reads labels and checks lengths. A reader that can produce images of the wanted `size` or `channels` itself does so; others give
   * what they have.
   */
  list(path: string, options: { split: Split; size?: Size; channels?: 1 | 3 }): Promise<Listing>;
};
