/**
 * Every error that Phoenix raises on purpose. `code` is stable and meant for programs; the message says what was expected, what came
 * and what to do.
 */
export type PhoenixErrorCode =
  | 'ERR_PHOENIX_ARGUMENT' // an option or argument out of its range
  | 'ERR_PHOENIX_SHAPE' // tensors or images whose sizes do not fit
  | 'ERR_PHOENIX_DISPOSED' // a Session, Vector or Images used after dispose()
  | 'ERR_PHOENIX_BUSY' // a second use of a Session while a call is running
  | 'ERR_PHOENIX_NOT_FINITE' // a loss, gradient or parameter became NaN or infinite
  | 'ERR_PHOENIX_MEMORY' // an allocation failed
  | 'ERR_PHOENIX_LOAD' // no native addon could be loaded
  | 'ERR_PHOENIX_DATA' // a dataset file is missing, truncated or mislabelled
  | 'ERR_PHOENIX_CHECKPOINT' // a checkpoint is damaged or of another configuration
  | 'ERR_PHOENIX_CONFIG' // a configuration that contradicts itself
  | 'ERR_PHOENIX_RUN' // a run folder in use, existing, damaged or of another configuration
  | 'ERR_PHOENIX_MESSAGE' // a message or update from elsewhere that does not decode
  | 'ERR_PHOENIX_ROUND' // a round that no client finished
  | 'ERR_PHOENIX_NETWORK' // a server that cannot be reached, or that refuses for good
  | 'ERR_PHOENIX_REFUSED' // credentials that are not valid (any more), or what a site does not allow
  | 'ERR_PHOENIX_IO' // the disk is full or a file cannot be read or written
  | 'ERR_PHOENIX_INTERNAL'; // a bug in Phoenix

export class PhoenixError extends Error {
  readonly code: PhoenixErrorCode;
  constructor(code: PhoenixErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'PhoenixError';
    this.code = code;
  }
}
