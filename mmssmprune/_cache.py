"""The user's cache of compiled files: whose folder it is, and whether a file in it is the one that was put there.

What is loaded or installed from it runs as the user. So nobody else may be able to write there, and the name of each
file holds a hash of its content, which one that is cut short or damaged does not have. Standard library only: the
set-up uses it before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

REMEDY = 'make it writable by you alone (chmod go-w), or set MMSSMPRUNE_CACHE to a folder of your own'


def cache_folder() -> Path:
    """``$MMSSMPRUNE_CACHE``, else ``$XDG_CACHE_HOME/mmssmprune``, else ``~/.cache/mmssmprune``; absolute."""
    root = os.environ.get('MMSSMPRUNE_CACHE')
    return Path(root or Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmssmprune').absolute()


def make_private(folder: Path) -> None:
    """Make ``folder``, the cache's or one in it, with the parents that it lacks, open to this user alone.

    Raises:
        PermissionError: somebody else can write there, or replace it; one sentence that says who and what to do.
    """
    _check(folder)
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    _check(folder)  # what another process made in the meantime


def digest(path: Path) -> str:
    """Hash of a file's content, 32 characters."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def whole_file(folder: Path, pattern: str) -> Path | None:
    """A file in ``folder`` of this user's (or root's) that has the hash which its name holds, or None."""
    for path in sorted(folder.glob(pattern)):
        about = path.lstat()
        if stat.S_ISREG(about.st_mode) and not _writers(about, strict=True) and digest(path) in path.name:
            return path
    return None


def _check(folder: Path) -> None:
    if os.name != 'posix':
        return
    own = cache_folder()
    # By the name that was given and by the one behind its links: whoever can change either puts another folder there.
    for chain in (folder, folder.resolve()):
        for path in (chain, *chain.parents):
            if not os.path.lexists(path):
                continue
            strict = path in (folder, own, folder.resolve(), own.resolve())
            if writers := _writers(path.lstat(), strict):
                raise PermissionError(f'the cache {folder} is not used, because {path} {writers}: {REMEDY}')


def _writers(about: os.stat_result, strict: bool) -> str | None:
    """Say who else could write, or None; without ``strict`` as it concerns those who replace what is in a folder."""
    if os.name != 'posix':
        return None
    if about.st_uid not in (0, os.geteuid()) and (strict or not _is_unmapped(about.st_uid)):
        return f'belongs to user {about.st_uid}'
    if stat.S_ISLNK(about.st_mode) or (not strict and about.st_mode & stat.S_ISVTX):
        return None  # a link has no mode of its own; in a sticky folder nobody replaces what belongs to others
    if about.st_mode & stat.S_IWOTH:
        return 'can be written by everyone'
    if about.st_mode & stat.S_IWGRP and (strict or not _is_own_group(about.st_gid)):
        return f'can be written by group {about.st_gid}'
    return None


def _is_own_group(gid: int) -> bool:
    """Whether this is the user's private group, for which umask 002 is common: it has the name of its one member."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _is_unmapped(uid: int) -> bool:
    """Whether the owner is one from outside of a container without root, who is shown as nobody there."""
    try:
        mapped, nobody = Path('/proc/self/uid_map').read_text(), Path('/proc/sys/kernel/overflowuid').read_text()
    except OSError:
        return False
    return uid == int(nobody) and mapped.split() != ['0', '0', '4294967295']
