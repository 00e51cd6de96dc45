// Writes what XState does with random machines: a line of JSON for each, on stdout.
//
//   node differential.mjs DIR SEED FROM COUNT        DIR holds node_modules/xstate
//
// The Rust test `xstate_itself` runs this and compares every line with the engine.
import { createWriteStream } from 'node:fs';
import { harness, record, xstate } from './harness.mjs';
import { generate } from './generator.mjs';

const [, , dir, seed, from, count] = process.argv;
const machine = harness(xstate(dir));
const out = createWriteStream(null, { fd: 1 });
for (let n = Number(from); n < Number(from) + Number(count); n++) {
  const generated = generate(seed, n);
  let line;
  try {
    line = record(machine, generated);
  } catch (e) {
    line = { name: generated.name, definition: JSON.stringify(generated.definition), thrown: String(e.message) };
  }
  if (!out.write(`${JSON.stringify(line)}\n`)) await new Promise((go) => out.once('drain', go));
}
out.end();
