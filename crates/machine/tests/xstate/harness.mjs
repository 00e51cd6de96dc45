// Runs a definition under XState v5 and writes down what it did, step by step.
//
// What XState leaves to code stands here in JavaScript: the guards and actions of
// `concordat-cel@1`, whose expressions are kept to what CEL and JavaScript read alike; its clock,
// which fires by due time and then by the document order of the states; records, which live in a
// hidden part of the context.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

/// The package `xstate` installed in a directory.
export const xstate = (dir) => createRequire(pathToFileURL(`${dir}/any.js`))('xstate');

const HIDDEN = '$records';
const compiled = new Map();

export function evaluate(expr, context, event, input) {
  let f = compiled.get(expr);
  if (!f) {
    f = new Function('context', 'event', 'size', 'records', 'input', `"use strict"; return (${expr});`);
    compiled.set(expr, f);
  }
  const records = new Proxy({}, { get: (_, name) => ({
    has: (k) => k in (context[HIDDEN]?.[name] ?? {}),
    get: (k) => context[HIDDEN][name][k],
    count: () => Object.keys(context[HIDDEN]?.[name] ?? {}).length,
  }) });
  const data = event.data ?? event.output ?? event.input ?? null;
  return f(context, { ...event, data }, (x) => x.length, records, input ?? null);
}

export function fill(template, context, event, input) {
  if (Array.isArray(template)) return template.map((t) => fill(t, context, event, input));
  if (template && typeof template === 'object') {
    if ('cel' in template) return evaluate(template.cel, context, event, input);
    return Object.fromEntries(Object.entries(template).map(([k, v]) => [k, fill(v, context, event, input)]));
  }
  return template;
}

/// RFC 8785 for what snapshots hold: no numbers but integers.
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (value && typeof value === 'object') {
    const keys = Object.keys(value).filter((k) => value[k] !== undefined).sort();
    return `{${keys.map((k) => `${JSON.stringify(k)}:${canonical(value[k])}`).join(',')}}`;
  }
  return JSON.stringify(value);
}

/// May these states be active together?
function legal(nodes) {
  const has = new Set(nodes);
  return has.size === nodes.length && nodes.every((n) => {
    const children = Object.values(n.states).filter((c) => c.type !== 'history');
    const active = children.filter((c) => has.has(c)).length;
    return (!n.parent || has.has(n.parent)) && n.type !== 'history'
      && active === (n.type === 'compound' ? 1 : n.type === 'parallel' ? children.length : 0);
  });
}

export function harness({ createMachine, createActor, assign, raise, and, or, not, stateIn }) {
  // XState has no serialised form of its combined guards and of computed outputs: build them.
  const guard = (g) => {
    if (typeof g === 'string' || g === undefined) return g;
    if (g.type === 'and') return and(g.params.guards.map(guard));
    if (g.type === 'or') return or(g.params.guards.map(guard));
    if (g.type === 'not') return not(guard(g.params.guard));
    if (g.type === 'stateIn') return stateIn(g.params.state);
    return g;
  };
  const lively = (node) => {
    if (Array.isArray(node)) return node.map(lively);
    if (!node || typeof node !== 'object') return node;
    return Object.fromEntries(Object.entries(node).map(([k, v]) => [k,
      k === 'guard' ? guard(v) : k === 'meta' || k === 'params' ? v
        : k === 'output' ? ({ context, event }) => fill(v, context, event) : lively(v)]));
  };

  /// The machine, and its actors as functions from events to rows.
  return function machine(definition) {
    const { delays = {}, context = {}, records, ...config } = definition;
    const log = { effects: [], transitions: 0, takes: 0, fired: null, illegal: false };
    const signer = (key) => ({ context, event }) => event.pubkey !== undefined && context[key] === event.pubkey;
    const roles = { isCreator: signer('creatorPubKey'), isExecutor: signer('executorPubKey'),
      isReceiver: signer('receiverPubKey'), isOracle: signer('oraclePubKey') };
    const change = (f) => assign(({ context, event }, params) => {
      const of = context[HIDDEN] ?? {};
      const kept = { ...of[params.record] };
      f(kept, String(fill(params.key, context, event)), () => fill(params.value, context, event));
      return { [HIDDEN]: { ...of, [params.record]: kept } };
    });
    const built = createMachine({ ...lively(config), options: { maxIterations: 130 },
      context: ({ input }) => fill(context, {}, { type: 'xstate.init', input }, input) }, {
      guards: {
        ...roles,
        isNotCreator: (a) => a.event.pubkey !== undefined && !roles.isCreator(a),
        isCreatorOrExecutor: (a) => roles.isCreator(a) || roles.isExecutor(a),
        cel: ({ context, event }, { expr }) => evaluate(expr, context, event),
      },
      actions: {
        'cel.assign': assign(({ context, event }, params) => Object.fromEntries(
          Object.entries(params).map(([k, expr]) => [k, evaluate(expr, context, event)]))),
        assignExecutor: assign(({ event }) => ({ executorPubKey: event.pubkey })),
        raise: raise(({ context, event }, params) => fill(params, context, event)),
        publish: ({ context, event }, params) => log.effects.push(fill(params.content ?? '', context, event)),
        'records.put': change((kept, key, value) => { kept[key] = value(); }),
        'records.remove': change((kept, key) => { delete kept[key]; }),
      },
      delays: Object.fromEntries(Object.entries(delays).map(([k, t]) =>
        [k, ({ context, event }) => fill(t, context, event)])),
    });
    // Due at the same time: the order of the states, then of their delays.
    const places = new Map();
    const place = (n) => {
      Object.keys(n.config.after ?? {}).forEach((d, i) =>
        places.set(`xstate.after.${Number.isNaN(+d) ? d : +d}.${n.id}`, n.order * 1000 + i));
      Object.values(n.states).forEach(place);
    };
    place(built.root);

    const persisted = (actor) => {
      const snapshot = JSON.parse(JSON.stringify(actor.getPersistedSnapshot()));
      delete snapshot.context[HIDDEN];
      return snapshot;
    };

    /// An actor with rows of its own; from a snapshot if there is one.
    function start({ now, input, snapshot, records = {} }) {
      const clock = { now, timers: new Map() };
      const revived = snapshot && JSON.parse(snapshot);
      if (revived) revived.context[HIDDEN] = records;
      const actor = createActor(built, {
        input, snapshot: revived,
        clock: { setTimeout: () => 0, clearTimeout: () => {} },
        inspect: (e) => {
          if (e.type === '@xstate.microstep') {
            log.takes += 1;
            log.transitions += e._transitions.length;
            log.illegal ||= !legal(e.snapshot._nodes);
          }
        },
      });
      // XState's scheduler forgets a timer that is set again while it waits and lets both fire;
      // here a timer has one due time.
      actor.system.scheduler.schedule = (source, to, event, delay, id) =>
        clock.timers.set(id, { due: clock.now + Math.max(1, delay), event, place: places.get(id) });
      actor.system.scheduler.cancel = (source, id) => clock.timers.delete(id);
      actor.subscribe({ error() {} });
      const rows = [];
      const row = (event) => {
        const snapshot = actor.getPersistedSnapshot();
        const nodes = actor.getSnapshot()._nodes;
        const failed = snapshot.status === 'error' ? String(snapshot.error) : null;
        rows.push({
          event, now: clock.now, failed, illegal: !failed && (log.illegal || !legal(nodes)), takes: log.takes,
          accepted: log.transitions > 0 || event === null,
          active: nodes.filter((n) => n.type === 'atomic' || n.type === 'final').map((n) => n.id).sort(),
          order: nodes.map((n) => n.id),
          tags: [...actor.getSnapshot().tags].sort(), meta: actor.getSnapshot().getMeta(),
          records: snapshot.context[HIDDEN] ?? {}, bytes: failed ? '' : canonical(persisted(actor)),
          effects: log.effects,
        });
        Object.assign(log, { effects: [], transitions: 0, takes: 0, illegal: false });
        const last = rows.at(-1);
        return !last.failed && !last.illegal;
      };
      actor.start();
      const going = { rows, ok: row(null) };
      going.send = (event) => {
        const until = event.now ?? clock.now;
        for (;;) {
          const due = [...clock.timers].filter(([, t]) => t.due <= until)
            .sort((a, b) => a[1].due - b[1].due || a[1].place - b[1].place)[0];
          if (!due) break;
          clock.now = due[1].due;
          clock.timers.delete(due[0]);
          actor.send(due[1].event);
          if (!(going.ok = row({ type: due[1].event.type }))) return false;
        }
        clock.now = until;
        const { now: _, ...sent } = event;
        actor.send(sent);
        return (going.ok = row(event));
      };
      return going;
    }
    return { start };
  };
}

/// One definition, its events, and from some of its rows on once more from the persisted snapshot.
export function record(machine, { name, definition, events, input, restore = [] }) {
  const { start } = machine(definition);
  const first = start({ now: 0, input });
  const before = [0];
  for (const event of events) {
    if (!first.ok) break;
    first.send(event);
    before.push(first.rows.length - 1);
  }
  const restored = [];
  for (const at of restore) {
    const row = first.rows[before[at] ?? -1];
    if (!row || row.failed || row.illegal) continue;
    const again = start({ now: row.now, snapshot: row.bytes, records: row.records });
    for (const event of events.slice(at)) if (again.ok) again.send(event);
    restored.push({ at: before[at], rows: again.rows });
  }
  return { name, definition: JSON.stringify(definition), input: input ?? null, rows: first.rows, restored };
}
