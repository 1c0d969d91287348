"""Everything that needs a GPU, in one call: correctness first, then the benchmarks, a table of the goals last.

    python tools/benchmarks/run_on_gpu.py work_dirs/gpu
    python tools/benchmarks/run_on_gpu.py work_dirs/gpu --quick --minutes 9 --packages wheels

It needs PyTorch with CUDA, Triton, numpy and pytest; nothing has to be installed from this repository. The parts about
backbones also need mmengine and the pure Python packages that it imports, but not mmcv: --packages names a folder with
them. A part that fails or runs out of time does not stop the others. The exit code is 1 if a part has failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PASSED, FAILED, CUT, NOTHING, NOT_RUN = 'passed', 'FAILED', 'cut off', 'nothing ran', 'not run'


@dataclass(frozen=True)
class Part:
    """A test file or a benchmark, with what it needs and how many seconds it may take."""

    name: str
    arguments: tuple[str, ...]
    seconds: int
    needs: tuple[str, ...] = ()

    @property
    def is_test(self) -> bool:
        """Whether it is about correctness."""
        return self.arguments[0].startswith('tests/')


def parts(quick: bool) -> list[Part]:
    """In order of importance: what is last may be cut off."""
    less = ('--quick',) if quick else ()
    scan, backbone = 'tools/benchmarks/benchmark_scan.py', 'tools/benchmarks/benchmark_backbone.py'
    mm, profile = ('mmengine',), (backbone, '--profile', '--no-backends')
    found = [
        Part('test-scan', ('tests/test_ops/test_triton_kernels.py',), 240),
        Part('test-conv', ('tests/test_ops/test_kept_conv_kernels.py',), 120),
        Part('test-backbones', ('tests/test_gpu',), 150, mm),
        Part('backbone-float32', (backbone, '--train', *less), 900, mm),
        Part('scan-float32', (scan, *less), 600),
        Part('backbone-bfloat16', (backbone, '--dtype', 'bfloat16', '--train', *less), 900, mm),
        Part('backbone-graph', (backbone, '--dtype', 'bfloat16', '--cuda-graph', '--no-backends', *less), 600, mm),
        Part('backbone-profile', (*profile, '--quick', '--keep-ratios', '0.7', '0.5'), 300, mm),
        Part('scan-bfloat16', (scan, '--dtype', 'bfloat16', *less), 600),
        Part('vim-s-float32', (backbone, '--backbone', 'vim-s', '--train', *less), 900, mm),
        Part('vmamba-t-float32', (backbone, '--backbone', 'vmamba-t', '--train', *less), 900, mm),
        Part('whole-models', ('tools/benchmarks/benchmark_e2e.py',), 600, ('mmdet', 'mmseg')),
    ]  # fmt: skip
    if not quick:
        rest = ('plain-mamba-l2', 'plain-mamba-l3', 'vim-t', 'vmamba-s')
        found += [Part(f'{name}-float32', (backbone, '--backbone', name), 900, mm) for name in rest]
    return found


def tiny_parts() -> list[Part]:
    """A dry run on a CPU: every kind of part at sizes that mean nothing."""
    tiny = ('--runs', '1', '--warmup', '0', '--threads', '1')
    mm = ('mmengine',)
    backbone = ('--sizes', '32x32', '--keep-ratios', '0.5', '--no-backends')
    scan = ('--shapes', 'plain-mamba-l1:32x48:1', '--no-memory')
    return [
        Part('test-scan', ('tests/test_ops/test_triton_kernels.py',), 300),
        Part('test-backbones', ('tests/test_gpu', '-k', 'bit_for_bit'), 300, mm),
        Part('backbone-float32', ('tools/benchmarks/benchmark_backbone.py', *backbone, *tiny), 300, mm),
        Part('scan-float32', ('tools/benchmarks/benchmark_scan.py', *scan, *tiny), 300),
    ]  # fmt: skip


def parse_args() -> argparse.Namespace:
    """The command line."""
    summary, _, details = __doc__.partition('\n')
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', nargs='?', type=Path, default=Path('work_dirs/gpu'), help='default: %(default)s')
    parser.add_argument(
        '--packages',
        type=Path,
        metavar='DIR',
        help='wheels, or packages with their metadata as they lie in site-packages',
    )
    parser.add_argument('--quick', action='store_true', help='fewer and smaller cases')
    parser.add_argument(
        '--minutes', type=float, help='for everything together (default: 9 with --quick, else no limit)'
    )
    parser.add_argument('--only', nargs='+', metavar='PART', help='these parts alone')
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda', help='cpu: a dry run of tiny cases')
    args = parser.parse_args()
    if args.packages and not args.packages.is_dir():
        parser.error(f'--packages {args.packages}: there is no such folder')
    args.minutes = args.minutes or (9 if args.quick else 600)
    args.parts = tiny_parts() if args.device == 'cpu' else parts(args.quick)
    names = [part.name for part in args.parts]
    for name in args.only or []:
        if name not in names:
            parser.error(f'--only: there is no part {name!r}; they are {", ".join(names)}')
    args.parts = [part for part in args.parts if not args.only or part.name in args.only]
    return args


def main() -> None:
    """Run the parts, write their logs and the summary."""
    args = parse_args()
    out = args.folder.resolve()
    out.mkdir(parents=True, exist_ok=True)
    environment = make_environment(out, args.packages, args.device)
    deadline = time.monotonic() + 60 * args.minutes
    outcomes: list[tuple[Part, str, float]] = []
    for part in args.parts:
        start = time.monotonic()
        outcome = run_part(part, out, environment, args.device, deadline - start)
        outcomes.append((part, outcome, time.monotonic() - start))
        print(f'{part.name}: {outcome}, {outcomes[-1][2]:.0f} s', flush=True)
        write(out / 'summary.md', summary(outcomes, out, args.device))
    print(summary(outcomes, out, args.device))
    sys.exit(any(has_failed(part, outcome, args.device) for part, outcome, _ in outcomes))


def has_failed(part: Part, outcome: str, device: str) -> bool:
    """A benchmark that is cut off has not failed; a test has unless it has passed, or its GPU is not there."""
    if part.is_test and device == 'cuda':
        return outcome != PASSED
    return outcome.startswith(FAILED)


def make_environment(out: Path, packages: Path | None, device: str) -> dict[str, str]:
    """The variables of every part: this repository and the given packages can be imported, mmcv where it is whole."""
    paths = [str(REPO)]
    if packages:
        wheels = sorted(map(str, packages.resolve().glob('*.whl')))
        if wheels:
            target = out / 'packages'
            options = ['--quiet', '--no-index', '--no-deps', '--upgrade', '--target']
            command = ['-m', 'pip', 'install', *options, str(target)]
            subprocess.run([sys.executable, *command, *wheels], check=True)
        paths.append(str(target if wheels else packages.resolve()))
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([*paths, *filter(None, [os.environ.get('PYTHONPATH')])])}
    if not can_import('mmcv._ext', environment):
        environment['MMSSMPRUNE_WITHOUT_MMCV'] = '1'
    return environment | ({'MMSSMPRUNE_TEST_DEVICE': 'cpu'} if device == 'cpu' else {})


def can_import(module: str, environment: dict[str, str]) -> bool:
    """Whether a fresh Python imports it."""
    return _imports(module, environment['PYTHONPATH'])


@cache
def _imports(module: str, python_path: str) -> bool:
    environment = {**os.environ, 'PYTHONPATH': python_path}
    return not subprocess.run(
        [sys.executable, '-c', f'import {module}'], env=environment, capture_output=True
    ).returncode


def run_part(part: Part, out: Path, environment: dict[str, str], device: str, left: float) -> str:
    """Run a part with its output in a log; returns what became of it. What an earlier run has left of it goes."""
    log, results = out / f'{part.name}.log', [out / f'{part.name}.md', out / f'{part.name}.json']
    for old in (log, *results):
        old.unlink(missing_ok=True)
    missing = [name for name in part.needs if not can_import(name, environment)]
    if missing:
        return f'{NOT_RUN}: {missing[0]} cannot be imported'
    if left < 5:
        return f'{NOT_RUN}: no time left'
    command = [sys.executable, *part.arguments]
    if part.is_test:
        command[1:1] = ['-m', 'pytest', '-q', '-p', 'no:cacheprovider']
    else:
        command += ['--device', device, '--out', str(results[0]), '--json', str(results[1])]
    try:
        with log.open('w') as file:
            limit = min(part.seconds, left)
            done = subprocess.run(
                command, cwd=REPO, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=limit
            )
    except subprocess.TimeoutExpired:
        return f'{CUT} after {limit:.0f} s'
    if done.returncode:
        return f'{FAILED}, see {log.name}'
    if part.is_test and not re.search(r'\b\d+ passed', log.read_text()):
        return NOTHING
    return PASSED


def summary(outcomes: list[tuple[Part, str, float]], out: Path, device: str) -> str:
    """What became of the parts, and of the goals."""
    lines = [f'# Run on {"a GPU" if device == "cuda" else "a CPU: a dry run, whose numbers mean nothing"}', '']
    lines += [machine_of(out, outcomes), '', '| part | outcome | seconds |', '| --- | --- | ---: |']
    lines += [f'| {part.name} | {outcome} | {seconds:.0f} |' for part, outcome, seconds in outcomes]
    lines += [
        '',
        '| benchmark | goal | wanted | worst measured | median | verdict |',
        '| --- | --- | --- | ---: | ---: | --- |',
    ]
    for part, _, _ in outcomes:
        for row in read_table(out / f'{part.name}.json', 'goals', part):
            numbers = ' | '.join('-' if row.get(key) is None else f'{row[key]:.3f}' for key in ('measured', 'median'))
            lines.append(f'| {part.name} | {row["goal"]} | {row["wanted"]} | {numbers} | {row["verdict"]} |')
    return '\n'.join(lines) + '\n'


def read_table(path: Path, name: str, part: Part) -> list[dict]:
    """The rows of a benchmark's table; none where it was not made."""
    if part.is_test or not path.exists():
        return []
    return json.loads(path.read_text())['tables'].get(name, [])


def machine_of(out: Path, outcomes: list[tuple[Part, str, float]]) -> str:
    """The machine as the first benchmark describes it."""
    for part, _, _ in outcomes:
        path = out / f'{part.name}.json'
        if not part.is_test and path.exists():
            return ', '.join(f'{name} {value}' for name, value in json.loads(path.read_text())['machine'].items())
    return 'No benchmark has told what machine this is.'


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_suffix('.tmp')
    temporary.write_text(text)
    os.replace(temporary, path)


if __name__ == '__main__':
    main()
