// A KServe v2 client without generated code: health, metadata, and one inference with raw FP32 tensors.
//
//   node client.js [URL] [MODEL] [PROTO]      defaults: localhost:8001, identity, the .proto of this repository
//
// With COTENANT_TLS=FOLDER/NAME it shows the certificate NAME.pem of a folder and believes its ca.pem (docs/security.md).

const fs = require("fs");
const path = require("path");
const { promisify } = require("util");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const [url = "localhost:8001", model = "identity", proto = defaultProto()] = process.argv.slice(2);

function defaultProto() {
  return path.join(__dirname, "../../protos/cotenant/inference/inference.proto");
}

function credentials(identity) {
  if (!identity) return grpc.credentials.createInsecure();
  const files = [path.join(path.dirname(identity), "ca.pem"), `${identity}.key`, `${identity}.pem`];
  return grpc.credentials.createSsl(...files.map((file) => fs.readFileSync(file)));
}

// keepCase: fields are called as in the .proto; longs as numbers: shapes are far below 2^53.
const definition = protoLoader.loadSync(proto, { keepCase: true, longs: Number, defaults: true });
const { inference } = grpc.loadPackageDefinition(definition);
const client = new inference.GRPCInferenceService(url, credentials(process.env.COTENANT_TLS), {
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
});

// Every call gets a deadline; the server refuses at once what it cannot finish by then.
function call(method, request, seconds = 5) {
  const deadline = new Date(Date.now() + seconds * 1000);
  return promisify((done) => client[method](request, { deadline }, done))();
}

// A tensor of the shape the model asks for, -1 taken as 1, filled with 0, 1, 2, ...
function example(input) {
  const shape = input.shape.map((size) => Math.max(1, size));
  const count = shape.reduce((product, size) => product * size, 1);
  const values = Float32Array.from({ length: count }, (_, i) => i);
  return { tensor: { name: input.name, datatype: input.datatype, shape }, raw: Buffer.from(values.buffer) };
}

const describe = (tensor) => `${tensor.name} ${tensor.datatype}[${tensor.shape}]`;

async function main() {
  const { live } = await call("ServerLive", {});
  const { ready } = await call("ServerReady", {});
  const modelReady = await call("ModelReady", { name: model });
  console.log(`live ${live}, ready ${ready}, model ${model} ready ${modelReady.ready}`);

  const metadata = await call("ModelMetadata", { name: model });
  const inputs = metadata.inputs.map(describe).join(", ");
  const outputs = metadata.outputs.map(describe).join(", ");
  console.log(`${metadata.name} version ${metadata.versions}: ${inputs} -> ${outputs}`);

  const examples = metadata.inputs.map(example);
  const response = await call("ModelInfer", {
    model_name: model,
    inputs: examples.map(({ tensor }) => tensor),
    raw_input_contents: examples.map(({ raw }) => raw),
  });
  response.outputs.forEach((output, i) => {
    const raw = response.raw_output_contents[i];
    const aligned = new Uint8Array(raw).buffer; // a copy of its own, which starts where a float may
    const values = Array.from(new Float32Array(aligned, 0, Math.min(8, raw.length / 4)));
    console.log(`${describe(output)}: ${values.join(", ")}${raw.length > 32 ? ", ..." : ""}`);
  });
}

main()
  .catch((error) => {
    console.error(error.details ? `${grpc.status[error.code]}: ${error.details}` : error);
    process.exitCode = 1;
  })
  .finally(() => client.close());
