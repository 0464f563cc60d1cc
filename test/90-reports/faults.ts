/**
 * Faults that users of other tools reported, and that Phoenix must not have. Letters are kinds: C settings of checkpoints and samplers, D data
 * read with another meaning, W work lost at writing, L file systems and containers, P streams, signals and callbacks, I installing and
 * embedding, X internal errors and hangs, M messages, Q speed under limits, N clauses beyond these. Every fault has a test whose title begins
 * with its ID (90-faults.test.ts).
 */
export const FAULTS: Readonly<Record<string, string>> = {
  C1: 'A checkpoint says how it is to be sampled, and its clipping, variance or times were read past.',
  C2: 'A diffusers folder whose scheduler file lies elsewhere was sampled as a linear schedule and eps.',
  C3: 'One step with ddpm or ddim gave noise as a picture.',
  C4: 'eta was taken and ignored by samplers that do not have it.',
  D1: 'Folders named train, val and test were read as classes, so that held-out images were trained on; sites of a folder were not read.',
  D2: 'A class was its position among the folders that happened to be there: --class 1 drew folder 10.',
  D3: 'Values of 10 to 14 bits in 16, signed and floating-point values, and bands that are no alpha became wrong pixels without a word.',
  D4: 'Deeper folders, unknown endings, further frames and missing files of CIFAR-10 were passed over without a word.',
  D5: 'A run among the images was read as a class of its own pictures.',
  D6: 'Classes without images were trained for and drawn.',
  D7: 'A file that was cut short, or changed inside, could pass as an image.',
  D8: 'A test part without the first class was scored with classes shifted by one.',
  L1: 'No run could begin without hard links or fsync of folders, and a rename that was busy once lost the round.',
  L2: 'A lock that a kill left in a container held for ever in the next one of the same name.',
  N10: 'Misspelt fields of a configuration, and options of samplers that are not here, were ignored without a word.',
  N11: 'A scheduler file with -Infinity, as Python writes it, was refused; what its class leaves out was taken from another class.',
  N12: 'Clients whose labels count different lists of classes trained one model together.',
  N13: 'Sites of test and training images were compared by number.',
  N20: 'A FIFO in place of an idx, CIFAR-10 or records file was waited for.',
  N21: 'A file that may not be read was called an unsupported format.',
  N22: 'Want of memory, threads or handles was blamed on an image.',
  N23: 'LFS pointers, web pages, archives, PDF and DICOM under the name of an image were called an unsupported format.',
  N24: 'A file whose name is not UTF-8 was called missing.',
  N25: 'An image of too many pixels was advised to be saved as PNG.',
  N32: 'A file that was written again could be read by others, and one that may not be written was replaced.',
  N33: 'The run folder was looked at after the data had been read.',
  N34: 'A rename whose answer was lost, or an error without a name in Node (ESTALE), ended a run.',
  N35: 'A report refused a log with other line ends, and did not notice a changed figure.',
  N36: 'A run whose lock was taken over wrote on.',
  P3: 'Neither Ctrl-C nor SIGTERM nor an AbortSignal was heard while images were read, and no progress was shown.',
  W1: 'An output into a missing folder or onto a folder was refused after the work.',
  W2: 'A grid that was too long was found after the work, and a federation lost its round to it again and again.',
  W3: 'A checkpoint was written under a name that is never read, and a PNG under the name of a JPEG.',
  W4: 'Links, pipes, devices, files of runs and files of the user were replaced, and writers of one file met in one temporary name.',
  W5: 'A log with other line ends broke a run for good, and a changed figure was not noticed.',
  X3: 'A FIFO named as an image was waited for without end.',
};
