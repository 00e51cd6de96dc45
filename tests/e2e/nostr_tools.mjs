// Checks id and signature of every event in a file with nostr-tools: node nostr_tools.mjs <directory with node_modules> <file>.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [modules, file] = process.argv.slice(2);
const { verifyEvent, getEventHash } = createRequire(join(modules, 'index.js'))('nostr-tools/pure');
const lines = readFileSync(file, 'utf8').split('\n').filter((line) => line !== '');
for (const line of lines) {
  const event = JSON.parse(line);
  if (getEventHash(event) !== event.id || !verifyEvent(event)) {
    console.error(`not valid: ${line}`);
    process.exit(1);
  }
  // A check that takes anything proves nothing.
  const { id, pubkey, created_at, kind, tags, content, sig } = event;
  if (verifyEvent({ id, pubkey, created_at, kind, tags, content: content + ' ', sig })) {
    console.error(`a changed event is taken: ${line}`);
    process.exit(1);
  }
}
console.log(`${lines.length} events verified`);
