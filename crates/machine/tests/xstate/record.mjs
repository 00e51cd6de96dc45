// Writes down what XState v5 does with the definitions of cases.json and with some generated ones.
//
//   npm install --prefix DIR xstate@5.33.3 && node record.mjs DIR > expected.jsonl
//
// The Rust test `same_as_recorded` only reads expected.jsonl, so npm isn't needed to run it; the
// test `same_as_xstate_itself` runs differential.mjs and needs both.
import { readFileSync } from 'node:fs';
import { harness, record, xstate } from './harness.mjs';
import { generate } from './generator.mjs';

const machine = harness(xstate(process.argv[2]));
const cases = JSON.parse(readFileSync(new URL('cases.json', import.meta.url), 'utf8'));
for (const c of cases) {
  const line = record(machine, { restore: [1, 2], ...c });
  if (line.rows.some((r) => r.failed || r.illegal)) throw new Error(`${c.name}: ${JSON.stringify(line.rows.at(-1))}`);
  console.log(JSON.stringify(line));
}
// Of the generated ones those that take little room.
for (let n = 0, left = 40; left > 0; n++) {
  const line = JSON.stringify(record(machine, generate(1, n)));
  if (line.length < 12_000) { console.log(line); left--; }
}
