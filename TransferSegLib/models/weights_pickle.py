"""Looking at a weights file of torch before torch reads it: nothing in it but named arrays, and no more than needed.

``torch.save`` writes a zip file: the arrays as they are, and a small pickle that names them. torch loads it with
``weights_only``, which runs no code, but follows what else a pickle can say: structures that share their parts and so
take exponential time, and packed parts that fill the memory. What torch writes of a state dict needs none of it.
"""

from __future__ import annotations

import io
import pickletools
import zipfile

#: What a state dict is written with, and the largest size in bytes of its description for each array.
_OPCODES = frozenset(
    {
        *("PROTO", "STOP", "EMPTY_DICT", "SETITEM", "SETITEMS", "MARK", "BINPUT", "LONG_BINPUT", "BINGET"),
        *("LONG_BINGET", "BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "NEWFALSE"),
        *("NEWTRUE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "REDUCE", "BINPERSID"),
    }
)
_NAMES = frozenset(
    {
        "torch._utils _rebuild_tensor_v2",
        "collections OrderedDict",
        "torch HalfStorage",
        "torch FloatStorage",
        "torch DoubleStorage",
        "torch BFloat16Storage",
    }
)
_TUPLES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "REDUCE")
_BYTES_AN_ARRAY, _BYTES_MORE = 2048, 65536
#: Entries of the zip file beside the arrays: data.pkl, version, byteorder ...
_OTHER_ENTRIES = 16


def check_weights_file(content: bytes, arrays: int) -> None:
    """Raise ValueError or zipfile.BadZipFile unless a file is what torch writes of so many arrays, not packed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        if len(infos) > arrays + _OTHER_ENTRIES:
            raise ValueError(f"it has {len(infos)} entries for {arrays} arrays")
        unpacked = sum(info.file_size for info in infos)
        # torch.save does not compress: a file that grows on reading was made to exhaust the memory.
        if unpacked > len(content) or any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise ValueError(f"it would unpack to {unpacked:,} bytes")
        pickles = [info for info in infos if info.filename.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or pickles[0].file_size > arrays * _BYTES_AN_ARRAY + _BYTES_MORE:
            raise ValueError("its list of arrays is not one that torch writes")
        check_pickle(archive.read(pickles[0]))


def check_pickle(content: bytes) -> None:
    """Raise ValueError unless a pickle is a plain state dict: names and arrays, and no part that is used twice."""
    memo: dict[int, str] = {}
    before, dictionaries = "", 0
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name not in _OPCODES:
            raise ValueError(f"it holds '{opcode.name}', which weights do not need")
        if opcode.name == "GLOBAL" and argument not in _NAMES:
            raise ValueError(f"it names '{str(argument)[:60]}', which weights do not need")
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[int(argument or 0)] = before
            continue
        if opcode.name in ("BINGET", "LONG_BINGET") and memo.get(int(argument or 0), "") in _TUPLES:
            raise ValueError("a part of it is used twice")
        dictionaries += opcode.name == "EMPTY_DICT"
        before = opcode.name
    if dictionaries != 1:
        raise ValueError("it is not one list of names and arrays")
