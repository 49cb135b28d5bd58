"""The descriptor pool that holds the KServe v2 messages, and nothing else's.

`tritonclient` and `kserve` bring stubs of the same package (`inference`); protobuf's default pool takes each symbol
once, so whoever is imported second would fail. The wire does not know pools: the bytes are the same.
"""

from importlib.resources import files

from google.protobuf import descriptor_pb2, descriptor_pool

POOL = descriptor_pool.DescriptorPool()
_files = descriptor_pb2.FileDescriptorSet.FromString(files(__package__).joinpath("inference.binpb").read_bytes()).file
POOL.AddSerializedFile(_files[0].SerializeToString())
DESCRIPTOR = POOL.FindFileByName(_files[0].name)
