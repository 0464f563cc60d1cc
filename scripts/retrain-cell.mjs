// Trains and scores a measured cell anew and compares it: bits where compiler, C library, Node and instruction set are those that it was
// measured with, else figures to one part in a thousand.
// node --import=tsx scripts/retrain-cell.mjs docs/measured/GRID/CELL.json DATA [SIZE [RANGE]]
const { retrain } = await import('../test/support/retrain.ts');
const [cell, data, size, range] = process.argv.slice(2);
if (data === undefined) {
  console.error('Usage: node --import=tsx scripts/retrain-cell.mjs docs/measured/GRID/CELL.json DATA [SIZE [RANGE]]');
  process.exit(2);
}
const { bits, differing } = await retrain(cell, { data, ...(size && { size: Number(size) }), ...(range && { range }) });
console.log(`${cell}: ${bits ? 'bits' : 'figures to 1e-3'} compared, ${differing.length} metrics differ`);
if (differing.length > 0) console.table(differing);
process.exitCode = differing.length > 0 ? 1 : 0;
