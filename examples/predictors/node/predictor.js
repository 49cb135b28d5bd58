// A predictor in Node. What it learns is in model.js; this file speaks the protocol.
//
//   node predictor.js [ADDRESS] [PROTOS]      defaults: 127.0.0.1:8004, the protos of this repository
//
// ADDRESS is host:port or unix:path. Nothing is kept on disk: an event is safe once it is learned.

const path = require("path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");
const { Device, keyOf } = require("./model");

const [address = "127.0.0.1:8004", protos = path.join(__dirname, "../../../protos")] = process.argv.slice(2);
const PUSH_MS = 100;
const LEVELS = [0.5, 0.9, 0.95, 0.99];

// keepCase: fields are called as in the .proto; longs as strings: an incarnation has 64 bits, a number 53.
const definition = protoLoader.loadSync("cotenant/v1/predictor.proto", {
  includeDirs: [protos],
  keepCase: true,
  longs: String,
  enums: Number,
  defaults: true,
  arrays: true,
});
const { PredictorService } = grpc.loadPackageDefinition(definition).cotenant.v1;

const devices = new Map(); // device_id -> Device
const seen = new Map(); // "device_id incarnation" -> { device_id, incarnation, sequence: BigInt }, last heard of last
const watchers = new Set();

const refusal = (code, details) => ({ code, details });

// ---- Observe

function follow(deviceId, incarnation) {
  const key = `${deviceId} ${incarnation}`;
  const source = seen.get(key) || { device_id: deviceId, incarnation, sequence: 0n };
  seen.delete(key);
  seen.set(key, source);
  if (seen.size > 1024) seen.delete(seen.keys().next().value);
  return source;
}

function learn(deviceId, device, event) {
  const known = event.class_profiled
    ? device.profiled(event.class_profiled)
    : event.batch_finished && device.finished(event.batch_finished);
  if (known) watchers.forEach((watcher) => watcher.changed.add(JSON.stringify([deviceId, keyOf(known.batchClass)])));
}

function observe(stream) {
  let source;
  stream.on("data", ({ hello, events }) => {
    if (hello && hello.device && hello.device.device_id) {
      const deviceId = hello.device.device_id;
      if (!devices.has(deviceId)) devices.set(deviceId, new Device());
      source = follow(deviceId, hello.incarnation);
      for (const profile of hello.profiles) learn(deviceId, devices.get(deviceId), { class_profiled: profile });
    }
    if (!source) {
      stream.emit("error", refusal(grpc.status.INVALID_ARGUMENT, "the first frame must carry a hello with a device_id"));
      return;
    }
    for (const event of events) {
      const sequence = BigInt(event.sequence);
      if (sequence <= source.sequence) continue; // sent again after a broken stream
      source.sequence = sequence;
      learn(source.device_id, devices.get(source.device_id), event);
    }
    if (events.length) stream.write({ acknowledged_sequence: source.sequence.toString() });
    watchers.forEach((watcher) => watcher.wake());
  });
  stream.on("end", () => stream.end());
  stream.on("error", () => {});
}

// ---- WatchEstimates

function classEstimate(deviceId, device, known, levels) {
  return {
    device_id: deviceId,
    batch_class: known.batchClass,
    work_ns: Math.round(known.work),
    quantiles: device.quantiles(known, levels),
    sample_count: known.count,
    basis: known.pairs.size ? 3 : 2,
  };
}

function setEstimate(deviceId, device, known, others, levels, count) {
  const slowdown = device.slowdown(known, others);
  const quantiles = device.quantiles(known, levels);
  return { device_id: deviceId, batch_class: known.batchClass, co_runners: others, slowdown, quantiles, sample_count: count };
}

// Everything believed of a class: its own estimate, one set for each neighbour it was seen beside.
function put(push, deviceId, known, levels) {
  const device = devices.get(deviceId);
  push.classes.push(classEstimate(deviceId, device, known, levels));
  for (const pair of known.pairs.values()) {
    push.sets.push(setEstimate(deviceId, device, known, [pair.other], levels, pair.count));
  }
}

function putInterests(push, interests, levels) {
  for (const { device_id: deviceId, batches } of interests) {
    const device = devices.get(deviceId);
    batches.forEach((batchClass, i) => {
      const known = device && device.classes.get(keyOf(batchClass));
      const others = batches.filter((_, j) => j !== i);
      if (known && others.length) push.sets.push(setEstimate(deviceId, device, known, others, levels, known.count));
    });
  }
}

let version = 0;

function watch(stream) {
  const { levels: asked, interests, min_interval_ns: interval } = stream.request;
  if (asked.some((level) => !(level > 0 && level < 1))) {
    stream.emit("error", refusal(grpc.status.INVALID_ARGUMENT, `levels must be in (0, 1), got ${asked}`));
    return;
  }
  const levels = asked.length ? [...asked].sort((a, b) => a - b) : LEVELS;
  const watcher = { changed: new Set(), timer: undefined, wake: () => {} };

  function tell(complete) {
    watcher.timer = undefined;
    version += 1;
    const push = { version, complete, classes: [], sets: [], learned_through: [...seen.values()] };
    push.learned_through = push.learned_through.map((source) => ({ ...source, sequence: source.sequence.toString() }));
    if (complete) devices.forEach((device, id) => device.classes.forEach((known) => put(push, id, known, levels)));
    for (const [deviceId, key] of [...watcher.changed].map((text) => JSON.parse(text))) {
      const known = devices.get(deviceId).classes.get(key);
      if (known) put(push, deviceId, known, levels);
    }
    watcher.changed.clear();
    putInterests(push, interests, levels);
    stream.write(push);
  }

  watcher.wake = () => {
    if (!watcher.timer) watcher.timer = setTimeout(tell, Math.max(PUSH_MS, Number(interval) / 1e6), false);
  };
  watchers.add(watcher);
  stream.on("cancelled", () => {
    watchers.delete(watcher);
    clearTimeout(watcher.timer);
    stream.end();
  });
  stream.on("error", () => watchers.delete(watcher));
  tell(true);
}

// ---- EstimateColocation

function estimate({ request }, answer) {
  const { device_id: deviceId, batches } = request.colocation || { device_id: "", batches: [] };
  const level = request.level || 0.99;
  const device = devices.get(deviceId);
  if (!device) return answer(refusal(grpc.status.NOT_FOUND, `device '${deviceId}' is not known`));
  if (!(level > 0 && level < 1)) return answer(refusal(grpc.status.INVALID_ARGUMENT, `level must be in (0, 1)`));
  const unknown = batches.find((batchClass) => !device.classes.has(keyOf(batchClass)));
  if (unknown) return answer(refusal(grpc.status.NOT_FOUND, `class '${unknown.model}' was never seen`));

  const members = batches.map((batchClass, i) => {
    const known = device.classes.get(keyOf(batchClass));
    const slowdown = device.slowdown(known, batches.filter((_, j) => j !== i));
    const bound = slowdown * device.factor(known, level);
    const work = Math.round(known.work);
    return { batch_class: batchClass, work_ns: work, slowdown, slowdown_bound: bound, sample_count: known.count, basis: 3 };
  });
  const gain = members.reduce((sum, member) => sum + 1 / member.slowdown, 0);
  return answer(null, { members, throughput_gain: gain, explanation: "sum of what each pair was seen to cost" });
}

// ---- the server

const server = new grpc.Server({ "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 });
server.addService(PredictorService.service, { Observe: observe, WatchEstimates: watch, EstimateColocation: estimate });
server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
  console.log(`listening at ${address}`);
});
process.on("SIGTERM", () => {
  server.forceShutdown();
  process.exit(0);
});
