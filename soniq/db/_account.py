"""As whom the embedded server runs: PostgreSQL refuses to run as root.

An unprivileged user is tried first, then the same within a user namespace; only if neither reaches
the programs and the data are they put where it does. Nothing of the user's changes mode or owner.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from soniq.errors import EmbeddedFailed

from . import _keeper

if TYPE_CHECKING:
    from collections.abc import Iterator


def digest(text: str) -> str:
    """Shorten a path to twelve characters that tell it from others."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:12]


class Account(NamedTuple):
    """As whom the server runs.

    Attributes:
        uid: The user to become, or None to stay.
        gid: That user's group.
        prefix: A command that runs another one under that name.
    """

    uid: int | None = None
    gid: int | None = None
    prefix: tuple[str, ...] = ()

    @property
    def owner(self) -> int:
        """The user that the server's files belong to."""
        return os.geteuid() if self.uid is None else self.uid

    def reaches(self, folder: Path | str) -> bool:
        """Try, as this user, to enter a folder."""
        return self._succeeds("cd", folder)

    def runs(self, programs: Path) -> bool:
        """Try, as this user, to run the server's program."""
        return self._succeeds("exec", programs / "postgres", "--version")

    def _succeeds(self, *command: str | Path) -> bool:
        if not self.prefix and self.uid is None:
            return True
        # Tried, not computed from modes: there are also ACLs, user namespaces and their bans.
        try:
            tried = subprocess.run(
                [*self.prefix, "/bin/sh", "-c", '"$@"', "sh", *map(str, command)],
                user=self.uid,
                group=self.gid,
                extra_groups=None if self.uid is None else [],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd="/",
                env=_keeper.environment(),
                check=False,
            )
        except OSError:  # no `unshare` here
            return False
        return tried.returncode == 0

    def own(self, folder: str) -> None:
        """Hand a folder that we made, with all in it, to this user."""
        if os.geteuid() == 0:
            for path in _tree(folder):
                os.chown(path, self.owner, self.gid or 0, follow_symlinks=False)


def _tree(folder: str) -> Iterator[str]:
    yield folder
    for parent, folders, files in os.walk(folder):
        yield from (f"{parent}/{name}" for name in (*folders, *files))


def choose_account(home: str, programs: Path) -> tuple[Account, Path]:
    """Choose a user that can reach the programs and the data, moving them only if none can."""
    if os.geteuid() != 0:
        return Account(), programs
    user = _unprivileged_user()
    for account in (user, _mapped(user)):
        place = os.path.dirname(os.path.realpath(f"{home}/data"))
        if account.runs(programs) and account.reaches(place):
            return account, programs
    if not user.runs(programs):
        programs = _copy_programs(programs)
    if not user.reaches(os.path.dirname(os.path.realpath(f"{home}/data"))):
        _move_data(home)
    return user, programs


def _unprivileged_user() -> Account:
    import pwd  # late: there is none on Windows

    for name in ("postgres", "_postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return Account(found.pw_uid, found.pw_gid)
    raise EmbeddedFailed(
        "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run the "
        "embedded one. Start as another user, or set SONIQ_DATABASE_URL."
    )


def _mapped(user: Account) -> Account:
    """Stay root for the files, but bear another user's name in a user namespace."""
    return Account(
        prefix=("unshare", "--user", f"--map-user={user.uid}", f"--map-group={user.gid}")
    )


def _public_folder(name: str) -> Path:
    """Make a folder of root's where everybody can pass through."""
    for base in (Path("/var/lib/soniq"), Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108
        folder = base / name if base.name == "soniq" else base / f"soniq-{name}"
        with contextlib.suppress(OSError):
            folder.mkdir(0o755, parents=True, exist_ok=True)
            if folder.lstat().st_uid == 0 and _unprivileged_user().reaches(folder):
                return folder
    raise EmbeddedFailed(
        "No folder was found that the unprivileged user of the embedded PostgreSQL can reach. "
        "Set SONIQ_EMBEDDED_DIR to one outside of root's home, or set SONIQ_DATABASE_URL."
    )


def _copy_programs(programs: Path) -> Path:
    package = programs.parent.parent
    made = (programs / "postgres").stat()
    cache = _public_folder(f"programs-{digest(f'{programs}{made.st_mtime_ns}{made.st_size}')}")
    target = cache / package.name
    if not target.exists():
        libraries = f"{package.name}.libs"  # the programs look for it beside the package
        if (package.parent / libraries).exists():
            shutil.copytree(package.parent / libraries, cache / libraries, dirs_exist_ok=True)
        unfinished = cache / f"{package.name}.{os.getpid()}"
        shutil.copytree(package, unfinished, symlinks=True)
        with contextlib.suppress(OSError):  # another folder's starter was faster
            unfinished.rename(target)
    return target / programs.relative_to(package)


def _move_data(home: str) -> None:
    """Put a link in the place of the data folder, to one that the server's user can reach."""
    # A new name each time: a folder left there by somebody is neither used nor deleted.
    target = _public_folder(digest(home)) / f"data-{os.urandom(4).hex()}"
    link = f"{home}/data"
    if os.path.isdir(link):
        shutil.move(os.path.realpath(link), target)
    if os.path.islink(link):
        os.unlink(link)
    os.symlink(target, link)
