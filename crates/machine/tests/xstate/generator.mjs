// Random definitions that use every feature of the engine that XState has too, and random events.
// They are admitted by construction: targets exist and can be active together.

const TYPES = ['a', 'b', 'c', 'p.q', 'p.q.r', 'p', 'go'];
const DESCRIPTORS = ['a', 'b', 'c', 'p', 'p.q', 'p.q.r', 'p.*', 'p.q.*', '*', 'go'];
const PEOPLE = ['aa', 'bb', 'cc', undefined];
const EXPRESSIONS = ['context.n % 2 == 0', 'context.n < 4', 'event.type == "a"', 'context.m != context.n',
  'size(context.xs) < 3', 'context.n + context.m > 3 || event.type == "b"', 'event.data == context.n',
  'context.n < 2 ? true : context.m > 1', 'true', 'false'];
const RECORDS = ['records.votes.count() < 2', 'records.votes.has(event.type)',
  'records.votes.has("a") && records.votes.get("a") == 1'];
const ROLES = ['isCreator', 'isNotCreator', 'isExecutor', 'isReceiver', 'isCreatorOrExecutor', 'isOracle'];

export function random(seed) {
  let s = BigInt(seed) * 0x9e3779b97f4a7c15n + 1n;
  return (n) => {
    s = (s * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
    return Number((s >> 33n) % BigInt(n));
  };
}

const escape = (key) => key.replace(/[\\.]/g, '\\$&');

/// The n-th machine of a seed: the first try that fits into an event.
export function generate(seed, n) {
  for (let attempt = 0; ; attempt++) {
    const made = generateAny(random((BigInt(seed) * 1_000_003n + BigInt(n)) * 16n + BigInt(attempt)));
    if (JSON.stringify(made.definition).length < 50_000) return { name: `machine ${n} of seed ${seed}`, ...made };
  }
}

function generateAny(rnd) {
  const pick = (xs) => xs[rnd(xs.length)];
  const one = (k) => rnd(k) === 0;
  const nodes = [];
  let delay = 100 + rnd(400);
  const big = one(12);
  const records = one(3);

  // The shape first: what can be named must be known before it is.
  const shape = (key, parent) => {
    const depth = parent ? parent.depth + 1 : 0;
    const node = { key, parent, depth, path: parent ? [...parent.path, key] : [], children: [], config: {} };
    nodes.push(node);
    node.type = depth === 0 ? pick(['compound', 'compound', 'compound', 'parallel', 'parallel', one(6) ? 'atomic' : 'compound'])
      : depth > 3 || nodes.length > (big ? 60 : 24) ? 'atomic'
        : pick(['atomic', 'atomic', 'atomic', 'compound', 'compound', 'parallel']);
    if (parent && one(6)) { node.id = one(5) ? `i.${nodes.length}` : `i${nodes.length}`; node.config.id = node.id; }
    if (node.type === 'atomic') { if (one(8)) node.config.type = 'atomic'; return node; }
    const keys = [pick(['x', '10', 'w.w']), 'y', pick(['7', 'z']), '3', 'u'].slice(0, 1 + rnd(big ? 5 : 3) + (one(6) ? 0 : 1));
    if (one(4)) keys.reverse();
    for (const k of keys) node.children.push(shape(k, node));
    if (one(node.type === 'parallel' ? 12 : 3)) node.children.push(leaf('f', node, 'final'));
    for (const h of one(3) ? (one(4) ? ['h', 'g'] : ['h']) : []) node.children.push(leaf(h, node, 'history'));
    if (one(4)) node.children.reverse();
    if (node.type === 'parallel') node.config.type = 'parallel';
    return node;
  };
  const leaf = (key, parent, type) => {
    const node = { key, parent, depth: parent.depth + 1, path: [...parent.path, key], children: [], type, config: { type } };
    nodes.push(node);
    return node;
  };
  const root = shape('m', null);
  const below = (node) => node.children.flatMap((c) => [c, ...below(c)]);
  const enterable = (node) => node.type !== 'history';

  const absolute = (node) => {
    if (node.id && one(2)) return `#${escape(node.id)}`;
    for (let a = node; a; a = a.parent) {
      if (a.id && one(2)) return `#${[a.id, ...node.path.slice(a.path.length)].map(escape).join('.')}`;
    }
    return `#${['m', ...node.path].map(escape).join('.')}`;
  };
  const target = (from, to) => {
    const within = (a) => a.path.every((k, i) => to.path[i] === k) && to.path.length > a.path.length;
    // XState doesn't escape the key that it puts before `.child`.
    if (within(from) && !(from.parent && from.key.includes('.')) && one(2)) return `.${to.path.slice(from.path.length).map(escape).join('.')}`;
    if (from.parent && within(from.parent) && one(2)) {
      return to.path.slice(from.parent.path.length).map(escape).join('.');
    }
    return absolute(to);
  };
  // States that can be active together: one below each of some regions of a parallel state.
  const together = () => {
    const parallel = nodes.filter((p) => p.type === 'parallel' && p.children.filter(enterable).length > 1);
    if (!parallel.length) return null;
    const regions = pick(parallel).children.filter(enterable).sort(() => rnd(3) - 1);
    return regions.slice(0, 2 + rnd(regions.length - 1)).map((r) => pick([r, ...below(r)]));
  };

  const label = (at, what) => ({ type: 'publish', params: { kind: 1,
    content: one(3) ? { at, what, type: { cel: 'event.type' }, n: { cel: 'context.n' }, data: { cel: 'event.data' } } : `${what} ${at}` } });
  const put = () => pick([
    { type: 'records.put', params: { record: 'votes', key: { cel: 'event.type' }, value: { cel: 'context.n' } } },
    { type: 'records.put', params: { record: 'votes', key: pick(['a', 'k']), value: { by: pick([1, 'x', null]) } } },
    { type: 'records.remove', params: { record: 'votes', key: { cel: 'event.type' } } },
  ]);
  const actions = (at, what) => {
    const list = [label(at, what)];
    if (one(3)) list.push({ type: 'cel.assign', params: { n: 'context.n + 1' } });
    if (one(6)) list.push({ type: 'cel.assign', params: { m: 'context.n', n: 'context.m + 2' } });
    if (one(9)) list.push({ type: 'cel.assign', params: { xs: 'size(context.xs) < 5 ? [context.n, event.type] : []' } });
    // Many raised events that many states take would rarely come to rest.
    if (one(what === 'in' || what === 'out' ? 60 : 14)) list.push({ type: 'raise', params: { type: pick(TYPES), data: { cel: 'context.n' } } });
    if (one(80)) list.push({ type: 'raise', params: { type: { cel: 'context.n > 3 ? "a" : "go"' } } });
    if (records && one(4)) list.push(put());
    if (one(10)) list.reverse();
    return list.length === 1 && one(2) ? list[0] : one(9) ? [] : list;
  };
  const value = (node) => (node.depth <= 1 ? node.key
    : node.path.slice(0, -1).reduceRight((v, k) => ({ [k]: v }), node.key));
  const guard = (depth = 0) => {
    if (depth < 2 && one(6)) return { type: pick(['and', 'or']), params: { guards: Array.from({ length: rnd(4) }, () => guard(depth + 1)) } };
    if (depth < 2 && one(8)) return { type: 'not', params: { guard: guard(depth + 1) } };
    if (one(6) && nodes.length > 1) {
      const node = pick(nodes.filter((x) => x.parent));
      return { type: 'stateIn', params: { state: one(3) ? node.path.map(escape).join('.') : one(2) ? value(node) : absolute(node) } };
    }
    if (one(9)) return one(2) ? pick(ROLES) : { type: pick(ROLES) };
    return { type: 'cel', params: { expr: pick(records && one(3) ? RECORDS : EXPRESSIONS) } };
  };
  const transition = (from, what, guarded = one(3)) => {
    const t = {};
    if (!one(5)) t.actions = actions(from.path.join('.'), what);
    if (!one(5)) t.target = target(from, pick(nodes));
    const several = one(5) && together();
    if (several) t.target = several.map((to) => target(from, to));
    if (one(30)) t.target = [];
    if (one(4)) t.reenter = true;
    if (guarded) t.guard = guard();
    if (one(9)) t.description = what;
    if (!guarded && !t.reenter && !t.actions && typeof t.target === 'string' && one(2)) return t.target;
    return t;
  };
  // Most of them come to an end by themselves.
  const always = (from, i) => {
    const t = transition(from, `always ${i}`, true);
    if (typeof t === 'string' || one(12)) return t;
    const bound = { type: 'cel', params: { expr: `context.n < ${1 + rnd(5)}` } };
    const step = { type: 'cel.assign', params: { n: 'context.n + 1' } };
    return { ...t, guard: one(3) ? { type: 'and', params: { guards: [bound, t.guard] } } : bound, actions: [label(from.path.join('.'), `always ${i}`), step] };
  };
  const several = (from, what) => (one(3) ? [transition(from, what, !one(4)), transition(from, what)] : transition(from, what));

  const delays = {};
  const dress = (node) => {
    const { config, path } = node;
    const at = path.join('.');
    if (node.type === 'history') {
      if (one(2)) config.history = pick(['deep', 'shallow', true]);
      else if (one(2)) config.history = 'deep';
      if (node.parent.children.some((c) => c.type === 'history' && c.initialOf) || one(3)) {
        const inside = below(node.parent).filter(enterable);
        const regions = node.parent.type === 'parallel' ? node.parent.children.filter(enterable) : [];
        if (regions.length > 1 && one(2)) config.target = regions.slice(0, 2).map((r) => target(node, pick([r, ...below(r).filter(enterable)])));
        else config.target = target({ path: [...node.path], parent: node.parent }, pick(inside));
      }
      return;
    }
    if (one(3)) config.tags = one(2) ? `t${rnd(3)}` : [`t${rnd(3)}`, `${at || 'm'}`];
    if (one(4)) config.meta = { at, deep: { n: rnd(9) } };
    if (!one(3)) config.entry = actions(at, 'in');
    if (!one(3)) config.exit = actions(at, 'out');
    if (node.type === 'final') { if (one(2)) config.output = one(2) ? { at } : { cel: 'context.n' }; return; }
    if (!one(4)) {
      config.on = {};
      for (let i = rnd(4); i >= 0; i--) { const d = pick(DESCRIPTORS); config.on[d] = several(node, d); }
    }
    if (one(6)) config.always = one(4) ? [always(node, 1), always(node, 2)] : always(node, 0);
    if (one(4)) {
      config.after = {};
      for (let i = rnd(2); i >= 0; i--) {
        const name = one(4) ? 'later' : one(6) ? 'soon' : String(delay += 37 + rnd(200));
        if (name === 'later') delays.later = { cel: 'context.n * 150 + 333' };
        if (name === 'soon') delays.soon = 700;
        config.after[name] = one(3) ? [transition(node, `after ${name}`, true), { actions: actions(at, 'late') }] : transition(node, `after ${name}`);
      }
    }
    if (!node.children.length) return;
    if (one(3)) config.onDone = several(node, 'done');
    if (node.type === 'compound') {
      const first = pick(node.children.filter((c) => enterable(c) || one(4)).concat(node.children.filter(enterable)));
      first.initialOf = node;
      config.initial = one(3) ? { target: first.key, actions: actions(at, 'initial') } : first.key;
    }
    config.states = Object.fromEntries(node.children.map((c) => [c.key, c.config]));
    node.children.forEach(dress);
  };
  dress(root);
  const definition = { id: 'm', context: { n: rnd(3), m: 0, xs: [], creatorPubKey: 'aa', executorPubKey: one(2) ? 'bb' : null, receiverPubKey: 'cc', oraclePubKey: 'bb' }, ...root.config };
  let input;
  if (one(3)) {
    input = { n: rnd(4), who: pick(['bb', 'cc']) };
    definition.context.n = { cel: 'input.n' };
    definition.context.receiverPubKey = { cel: 'input.who' };
  }
  if (records) definition.records = { votes: {} };
  if (Object.keys(delays).length) definition.delays = delays;
  if (one(2)) definition.output = { n: { cel: 'context.n' }, from: { cel: 'event.type' }, data: { cel: 'event.data' } };
  let now = 0;
  const events = [];
  for (let i = 0; i < 8; i++) {
    now += rnd(3) ? 0 : 100 + rnd(1500);
    const event = { type: pick(TYPES), data: i, now, pubkey: pick(PEOPLE) };
    if (one(3)) delete event.data;
    events.push(event);
  }
  return { definition, events, input, restore: [rnd(8), rnd(8)] };
}
