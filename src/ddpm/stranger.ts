/**
 * What a file is by its first bytes, of the kinds that are often found under the name of an image or a model, and what to do. Nothing that
 * is an image or a model here begins so.
 */
export function strangerOf(head: Buffer): { what: string; advice: string } | undefined {
  const text = head.toString('latin1').trimStart().toLowerCase();
  const again = 'Fetch such files again.';
  if (head.length === 0) return { what: 'it is empty', advice: again };
  if (text.startsWith('version https://git-lfs'))
    return { what: 'it is a Git LFS pointer in place of the file', advice: 'Fetch files of Git LFS with: git lfs pull.' };
  if (text.startsWith('<!doctype html') || text.startsWith('<html')) return { what: 'it is a web page (HTML)', advice: again };
  if (head.toString('latin1', 0, 4) === 'PK\x03\x04') return { what: 'it is a zip archive', advice: 'Unpack archives first.' };
  if (head[0] === 0x1f && head[1] === 0x8b) return { what: 'it is gzipped', advice: 'Unpack archives first.' };
  if (head.toString('latin1', 1, 4) === 'HDF') return { what: 'it is an HDF5 file', advice: 'HDF5 is not read.' };
  if (head.toString('latin1', 1, 6) === 'NUMPY') return { what: 'it is an array of NumPy', advice: 'Files of NumPy are not read.' };
  if (head.toString('latin1', 0, 5) === '%PDF-') return { what: 'it is a PDF document', advice: 'Save its pictures as PNG.' };
  if (head.toString('latin1', 128, 132) === 'DICM')
    return { what: 'it is a DICOM file', advice: 'DICOM is not read: save it as PNG or TIFF, with the values that matter.' };
  return undefined;
}
