"""Make the torch that pip installed a CPU build: 0.6 GB instead of 5 GB.

PyPI's torch for Linux is a CUDA build. It does not load without some 4 GB of NVIDIA's libraries,
even where there is no GPU. For the place where no index of CPU wheels can be had, the Dockerfile
installs torch without them (`pip install --no-deps torch`) and runs this script:

1. Each library of NVIDIA that torch's libraries name becomes a stub: a library of that name with
   the functions that torch wants of it. Each of them returns 100, which is cudaErrorNoDevice. torch
   asks the CUDA runtime for devices when one is wanted, hears that there are none, and says so.
2. What only a GPU runs or only a compiler reads is removed: compiled GPU code, which is two thirds
   of libtorch_cuda.so, symbol tables, headers.
3. torch's metadata no longer requires NVIDIA's packages, so that pip does not add them.

A torch that was built without CUDA names no such library; it only loses its headers and symbols.
Needs readelf and strip (binutils) and gcc. Usage: python torch_without_cuda.py
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import struct
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

LOADED_FOR_A_GPU = ("libcaffe2_nvrtc.so", "libtorch_cuda_linalg.so")
"""torch opens these when a GPU is first used; nothing names them."""
NVIDIA_LIBRARY = re.compile(r"lib(cu|nv|nccl)\w*\.so\.\d+")
NVIDIA_FUNCTION = re.compile(r"(nccl|cusparseLt|cuFile|nvshmem)[A-Z_]\w*")
"""Functions of the libraries that give their symbols no version."""
NVIDIA_REQUIREMENT = re.compile(r"Requires-Dist: (cuda-|nvidia-|triton\b)")
CUDA_ERROR_NO_DEVICE = 100

# Of the ELF format: the file's header, an entry of its segment table, one of its section table.
ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")
SECTION = struct.Struct("<IIQQQQIIQQ")
PT_LOAD, PT_NOTE = 1, 4
PAGE = 65_536  # a multiple of every page size there is


@dataclass
class Library:
    """What the dynamic loader reads of a shared library."""

    needed: set[str] = field(default_factory=set)  # the libraries that it names
    wanted: set[tuple[str, str]] = field(default_factory=set)  # symbols: (name, version or "")
    version_files: dict[str, str] = field(default_factory=dict)  # version -> library that has it


def read(path: Path) -> Library:
    """Read a library's dynamic section by readelf."""
    library = Library()
    command = ["readelf", "--wide", "--dynamic", "--dyn-syms", "--version-info", str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    file = ""
    for line in output.splitlines():
        if needed := re.search(r"\(NEEDED\).*\[(.+)\]", line):
            library.needed.add(needed[1])
        elif symbol := re.match(r" *\d+: +\w+ +\d+ \w+ +GLOBAL +\w+ +UND (\w+)@?([\w.]*)", line):
            library.wanted.add((symbol[1], symbol[2]))
        elif header := re.search(r"Version: \d+ +File: (\S+)", line):
            file = header[1]
        elif version := re.search(r"Name: (\S+) +Flags:", line):
            library.version_files[version[1]] = file
    return library


def write_stub(path: Path, functions: set[str], version: str) -> None:
    """Compile a library whose functions say that there is no GPU.

    `version` is that of its symbols, empty if they have none.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder) / "stub.c", Path(folder) / "stub.map"
        lines = [f"int {name}(void) {{ return {CUDA_ERROR_NO_DEVICE}; }}" for name in functions]
        source.write_text("\n".join([*sorted(lines), ""]))
        script.write_text(f"{version} {{ global: *; }};\n")
        command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{path.name}"]
        command += [f"-Wl,--version-script,{script}", "-o", str(path), str(source)]
        subprocess.run(command, check=True)


def write_stubs(folder: Path) -> None:
    """Write a stub of every library of NVIDIA that the libraries in `folder` name."""
    libraries = [read(path) for path in folder.glob("*.so*")]
    missing = {n for library in libraries for n in library.needed if NVIDIA_LIBRARY.fullmatch(n)}
    functions: dict[str, set[str]] = defaultdict(set)
    versions: dict[str, str] = {}
    for library in libraries:
        for name, version in library.wanted:
            file = library.version_files.get(version, "")
            if file in missing:
                functions[file].add(name)
                versions[file] = version
            elif not version and NVIDIA_FUNCTION.fullmatch(name):
                functions["libnccl.so.2"].add(name)  # the loader asks all libraries for it
    for name in sorted(missing):
        write_stub(folder / name, functions[name], versions.get(name, ""))
        print(f"{name}: a stub with {len(functions[name])} functions")


def remove_gpu_code(path: Path) -> None:
    """Cut the section .nv_fatbin out of a library, if it has one; 64-bit little-endian ELF.

    Its addresses stay reserved and become unmapped: the segment that it lies in becomes two, and
    the bytes of the file behind it move up by whole pages. The program header table has no
    room for one segment more, so the note with the build's id goes. So do the section headers,
    which no loader reads.
    """
    content = bytearray(path.read_bytes())
    header = ELF_HEADER.unpack_from(content)
    segment_table, section_table = header[5], header[6]
    segment_count, section_count, names_index = header[10], header[12], header[13]
    sections = [
        SECTION.unpack_from(content, section_table + SECTION.size * i) for i in range(section_count)
    ]
    names = sections[names_index][4]
    for name, _, _, _, offset, size, *_ in sections:
        start = names + name
        if content[start : content.index(0, start)] == b".nv_fatbin":
            first, last = -(-offset // PAGE) * PAGE, (offset + size) // PAGE * PAGE
            break
    else:
        return
    segments = []
    for i in range(segment_count):
        segment = SEGMENT.unpack_from(content, segment_table + SEGMENT.size * i)
        kind, flags, offset, address, physical, in_file, in_memory, align = segment
        if kind == PT_NOTE:
            continue
        if kind == PT_LOAD and offset <= first and last <= offset + in_file:
            before, gone = first - offset, last - offset
            segments.append((kind, flags, offset, address, physical, before, before, align))
            address, physical = address + gone, physical + gone
            in_file, in_memory, offset = in_file - gone, in_memory - gone, first
        elif offset >= last:
            offset -= last - first
        segments.append((kind, flags, offset, address, physical, in_file, in_memory, align))
    if len(segments) != segment_count:
        raise SystemExit(f"{path.name}: its segments are not as this script expects them")
    del content[first:last]
    for i, segment in enumerate(segments):
        SEGMENT.pack_into(content, segment_table + SEGMENT.size * i, *segment)
    ELF_HEADER.pack_into(content, 0, *header[:6], 0, *header[7:12], 0, 0)
    path.write_bytes(content)
    print(f"{path.name}: {(last - first) / 1e6:.0f} MB of GPU code removed")


def main() -> None:
    """Make the torch of the Python that runs this a CPU build."""
    distribution = importlib.metadata.distribution("torch")
    torch = Path(str(distribution.locate_file("torch")))
    for name in LOADED_FOR_A_GPU:
        (torch / "lib" / name).unlink(missing_ok=True)
    write_stubs(torch / "lib")
    for library in torch.rglob("*.so*"):
        subprocess.run(["strip", "--strip-unneeded", str(library)], check=True)
        if library.name == "libtorch_cuda.so":
            remove_gpu_code(library)
    for folder in ("include", "share"):
        shutil.rmtree(torch / folder, ignore_errors=True)
    metadata = torch.with_name(f"torch-{distribution.version}.dist-info") / "METADATA"
    lines = metadata.read_text().splitlines(keepends=True)
    metadata.write_text("".join(line for line in lines if not NVIDIA_REQUIREMENT.match(line)))


if __name__ == "__main__":
    main()
