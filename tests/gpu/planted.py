# Plants the bugs of planted_bugs.txt one at a time and sees whether the tests turn red.
#
# The file with the bug is a copy in a temporary folder that the compiler meets first; the build's
# own commands compile it (for a header: every source of gpu_test that reads it) and link the
# objects in place of the right ones. So a bug costs one or a few compilations and a link, and
# nothing has to be put back. A race often gives right numbers: a bug may name the tool of NVIDIA's
# compute-sanitizer that must complain while its tests run.
import concurrent.futures
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SECONDS = int(os.environ.get("PLANTED_SECONDS", 120))  # for the tests of a bug: some let them hang
AT_ONCE = int(os.environ.get("PLANTED_AT_ONCE", 1))  # bugs that run at a time, on one GPU
# As in tests/run.sh: memory that nobody wrote is NaN.
ENVIRONMENT = dict(os.environ, PYRAMOE_FILL_NAN="1")
SANITIZER = os.environ.get("SANITIZER") or shutil.which("compute-sanitizer") or \
    "/usr/local/cuda/bin/compute-sanitizer"


def read_bugs():
    """Blocks of '== name', 'file F', 'tests FILTER', maybe 'under TOOL', '- ' and '+ ' lines."""
    bugs = []
    for line in open(os.path.join(HERE, "planted_bugs.txt")):
        line = line.rstrip("\n")
        if line.startswith("== "):
            bugs.append({"name": line[3:], "under": "", "old": [], "new": []})
        elif line.startswith("file "):
            bugs[-1]["file"] = line[5:]
        elif line.startswith("tests "):
            bugs[-1]["tests"] = line[6:]
        elif line.startswith("under "):
            bugs[-1]["under"] = line[6:]
        elif line[:1] in ("-", "+"):
            bugs[-1]["old" if line[0] == "-" else "new"].append(line[2:])
    return bugs


class Build:
    """A finished ninja build: how it compiles each object of gpu_test, and how it links them."""

    def __init__(self, folder):
        self.folder = folder
        if not os.path.exists(os.path.join(folder, "build.ninja")):
            sys.exit(f"{folder}: ninja did not build it; delete it, then "
                     "make test-gpu CMAKE_FLAGS='-G Ninja'")
        lines = self.ninja("commands", "gpu_test").splitlines()
        self.link = next(l for l in reversed(lines) if " -o gpu_test " in l)
        self.compile = {}
        for line in lines:
            source = re.search(r" -c (\S+/cuda/\S+\.c\w+) -o (\S+)", line)
            if source:
                self.compile[source[2]] = line
        self.readers = {}  # header or source -> objects
        if not self.compile:
            sys.exit(f"{folder}: gpu_test is not built of CUDA sources; configure with CUDA")
        for block in self.ninja("deps", *self.compile).split("\n\n"):
            rows = block.split("\n")
            for row in rows[1:]:
                read = re.search(r"/(cuda/[^/]+)$", row.strip())
                if read:
                    self.readers.setdefault(read[1], set()).add(rows[0].split(":")[0])

    def ninja(self, tool, *args):
        return subprocess.run(["ninja", "-C", self.folder, "-t", tool, *args], check=True,
                              text=True, stdout=subprocess.PIPE).stdout

    def run(self, command):
        done = subprocess.run(["bash", "-c", command], cwd=self.folder, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise RuntimeError(done.stdout[-1500:])

    def make(self, bug, result):
        """gpu_test with the bug, at `result`."""
        root = os.path.dirname(os.path.dirname(HERE))
        text = open(os.path.join(root, bug["file"])).read()
        old, new = "\n".join(bug["old"]), "\n".join(bug["new"])
        if text.count(old) != 1:
            raise RuntimeError(f"stands {text.count(old)} times in {bug['file']}:\n{old}")
        with tempfile.TemporaryDirectory() as tree:
            place = os.path.join(tree, bug["file"])
            os.makedirs(os.path.dirname(place))
            open(place, "w").write(text.replace(old, new))
            link = self.link.replace(" -o gpu_test ", f" -s -o {shlex.quote(result)} ")
            for number, name in enumerate(sorted(self.readers[bug["file"]])):
                command = self.compile[name]
                target = os.path.join(tree, f"{number}.o")
                source = re.search(r" -c (\S+) ", command)[1]
                if source.endswith(bug["file"]):
                    command = command.replace(f" -c {source} ", f" -c {place} ")
                command = command.replace(f" -o {name}", f" -o {target}", 1)
                command = re.sub(r" -MF \S+", f" -MF {target}.d", command)
                self.run(command.replace(" -I", f" -I{tree} -I", 1))
                link = link.replace(f" {name} ", f" {target} ")
            self.run(link)


def build_all(build, bugs, folder):
    table = open(os.path.join(folder, "bugs"), "w")
    subprocess.run(["cp", os.path.join(build.folder, "gpu_test"), folder], check=True)
    subprocess.run(["strip", os.path.join(folder, "gpu_test")], check=True)

    def make(bug):
        path = os.path.join(folder, bug["id"])
        start = time.time()
        try:
            build.make(bug, path)
            print(f"built {bug['id']} {bug['name']} ({time.time() - start:.0f} s)", flush=True)
        except RuntimeError as error:
            print(f"FAILED {bug['name']}: does not build: {error}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make, bugs))
    for bug in bugs:
        table.write("|".join((bug["id"], bug["tests"], bug["under"], bug["name"])) + "\n")
    table.close()


def run_tests(program, tests, tool="", limit=SECONDS):
    """(what was seen, or None where all is green, seconds)."""
    start = time.time()
    command = [program, f"--gtest_filter={tests}", "--gtest_brief=1"]
    environment = ENVIRONMENT
    if tool:
        command = [SANITIZER, "--tool", tool, "--error-exitcode", "99", "--print-limit", "20",
                   "--show-backtrace", "no"] + command
        environment = dict(os.environ, PYRAMOE_SMALL="1", PYRAMOE_THREADS="2",
                           PYRAMOE_INITCHECK="1" if tool == "initcheck" else "0")
    try:
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=limit, env=environment)
    except subprocess.TimeoutExpired:
        return f"no end in {limit} s", limit
    seconds = time.time() - start
    if "SKIPPED" in done.stdout:
        sys.exit("tests are skipped here: planted bugs need a GPU to show on")
    if done.returncode == 0:
        return None, seconds
    if tool and done.returncode == 99:
        words = re.search(r"=+ .*\b(?:Race|Invalid|Barrier|hazard|Uninitialized)\b.*", done.stdout)
        return f"{tool}: {words[0].strip('= ')[:150] if words else 'errors'}", seconds
    failed = re.findall(r"\[  FAILED  \] (\S+?),? .*\(\d+ ms\)", done.stdout)
    text = re.search(r"Failure\n(.*)", done.stdout)
    if not failed:
        return f"exit {done.returncode}: {done.stdout.strip()[-160:]!r}", seconds
    return f"{', '.join(dict.fromkeys(failed))}: {text[1][:110] if text else ''}", seconds


def run_all(folder):
    rows = [line.rstrip("\n").split("|") for line in open(os.path.join(folder, "bugs"))]
    # Without a bug: all tests, and under a tool those that need it.
    plain = ":".join(dict.fromkeys(row[1] for row in rows if not row[2]))
    right = [("gpu_test", plain, "")] if plain else []
    right += dict.fromkeys(("gpu_test", row[1], row[2]) for row in rows if row[2])

    def look(work):
        program = os.path.join(folder, work[0])
        limit = SECONDS if work[0] != "gpu_test" else 10 * SECONDS
        return run_tests(program, *work[1:3], limit) if os.path.exists(program) else (None, 0)

    green, found = True, 0
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        results = pool.map(look, right + rows)
        for (_, filters, tool), (seen, seconds) in zip(right, results):
            green = green and seen is None
            print(f"without a bug{f' under {tool}: {filters}' if tool else ''}: "
                  f"{'green' if seen is None else seen} ({seconds:.0f} s)", flush=True)
        for (number, _, _, name), (seen, seconds) in zip(rows, results):
            found += seen is not None
            print(f"{'found' if seen else 'NOT FOUND'} {number} {name} ({seconds:.1f} s): "
                  f"{seen or ''}", flush=True)
    print(f"{found} of {len(rows)} found", flush=True)
    return 0 if green and found == len(rows) else 1


def main(args):
    if args[:1] == ["--run"]:
        return run_all(args[1])
    folder = None
    if args[:1] == ["--into"]:
        folder, args = args[1], args[2:]
        os.makedirs(folder, exist_ok=True)
    if not args:
        sys.exit("usage: tests/gpu/planted.sh [--into FOLDER] BUILD [WORD] | --run FOLDER")
    bugs = read_bugs()
    for number, bug in enumerate(bugs, 1):
        bug["id"] = f"{number:02}"
    bugs = [bug for bug in bugs if len(args) < 2 or args[1] in bug["name"] + " " + bug["file"]]
    if folder:
        return build_all(Build(args[0]), bugs, folder)
    with tempfile.TemporaryDirectory() as folder:
        build_all(Build(args[0]), bugs, folder)
        return run_all(folder)


sys.exit(main(sys.argv[1:]))
