#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets to tests/fuzz/corpus: small right files and near misses.

Run it again after a format has changed; the files are part of the repository. Inputs that once
broke a target are added beside them by hand, with names that say what they broke.
"""
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"


def save(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def safetensors():
    def pack(header, data_bytes):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + bytes(data_bytes)

    def tensor(dtype, shape, begin, end):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    save("safetensors", "empty", pack({}, 0))
    save("safetensors", "two", pack({"__metadata__": {"format": "pt"},
                                     "a.weight": tensor("F32", [2, 3], 0, 24),
                                     "b": tensor("BF16", [], 24, 26)}, 26))
    save("safetensors", "types", pack({t: tensor(t, [1], 8 * i, 8 * i + 8) for i, t in
                                       enumerate(["F64", "I64", "U64"])}, 24))
    save("safetensors", "half", pack({"h": tensor("F16", [2], 0, 4)}, 4))
    save("safetensors", "zero", pack({"z": tensor("U8", [0, 2**62], 0, 0)}, 0))
    save("safetensors", "overflow", pack({"o": tensor("U8", [2**32, 2**32], 0, 0)}, 0))
    save("safetensors", "hole", pack({"h": tensor("U8", [1], 1, 2)}, 2))
    save("safetensors", "twice", pack(b'{"a":{"dtype":"U8","dtype":"U8"}}', 0))
    save("safetensors", "escapes", pack({"\u00e9\n\"\\": tensor("I32", [1], 0, 4)}, 4))
    save("safetensors", "long", struct.pack("<Q", 2**63) + b"{}")


def config():
    save("config", "empty", b"")
    save("config", "model", b"model.layers = 4\nmodel.dim = 64\n[moe]\nexperts = 8\n"
                            b"gate = 'sigmoid_bias'\nresidual = true\ncapacity_factor = 1.25\n")
    save("config", "lists", b'[data]\nsources = ["a=b", \'c\']\nweights = [1, 2.5e-1]\n')
    save("config", "override", b"train.steps = 5\0train.lr=3e-4\0moe.experts=(0 32)*10\0"
                               b"data.sources=a,b\0data.weights=1,2")
    save("config", "strings", b'run.dir = """a\nb"""\ntrain.dump = "\\u00e9\\t"\n# end')
    save("config", "wrong", b"n_layer = 12\nmodel.dim = 'x'\ntrain.lr = nan\n")
    save("config", "nested", b"a = {b = {c = [1, [2]]}}\n[[x.y]]\nz = 1979-05-27T07:32:00Z\n")
    save("config", "include", b"include = ['x.toml']\n")


def byte_names():
    """The 256 bytes in GPT-2's printable alphabet, in the order of its ids."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def vocabularies():
    def pack(names, merges):
        vocab = json.dumps({n: i for i, n in enumerate(names)}, ensure_ascii=False,
                           separators=(",", ":"))
        return vocab.encode() + b"\0" + merges.encode()

    names = byte_names()
    save("bpe_load", "bytes", pack(names, "#version: 0.2\n"))
    save("bpe_load", "merges", pack([*names, "he", "\u0120t", "\u0120the", "<|endoftext|>"],
                                    "#version: 0.2\nh e\n\u0120 t\n\u0120t he\n"))
    save("bpe_load", "short", b'{"a":0,"b":1}\0a b\n')
    save("bpe_load", "wrong_id", b'{"a":0,"b":7}\0')
    save("bpe_encode", "text", b"The cat's 123 things,  and\n\nmore the ing\t<|endoftext|>aaaaaaa")
    save("bpe_encode", "utf8", "na\u00efve \u20ac\u20ac \u65e5\u672c\u8a9e \u00a0\u2003x".encode())
    save("bpe_encode", "broken", b"\xff\xfe\xc3\x28\xe2\x82 \xf0\x9f\x98\x00\xed\xa0\x80")


def token_files():
    tokens = struct.pack("<6H", 1, 2, 999, 0, 5, 6)
    header = b"PMTOKENS" + struct.pack("<IIQQ", 1, 2, 1000, 42)
    header = header.ljust(60, b"\0")
    header += struct.pack("<I", crc32c(header))
    body = header + tokens + bytes(4) + struct.pack("<2Q", 0, 3)
    tail = struct.pack("<QQII", 6, 2, crc32c(body), 0) + b"PMTOKEND"
    own = body + tail + struct.pack("<II", crc32c(tail), 0)
    save("token_file", "own", b"\0" + own)
    save("token_file", "own_summed", b"\2" + own)
    save("token_file", "nanogpt", b"\1" + tokens)
    llmc = struct.pack("<3i", 20240520, 1, 6).ljust(1024, b"\0") + tokens
    save("token_file", "llmc", b"\1" + llmc)
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 2, 3)
    index += struct.pack("<2i2q3q", 4, 2, 0, 8, 0, 1, 2)
    save("token_file", "megatron", bytes([3, len(index)]) + index + tokens)


safetensors()
config()
vocabularies()
token_files()
