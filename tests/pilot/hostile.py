"""What a payload tries that is up to no good: variables, and libraries that others are to load."""

from __future__ import annotations

import subprocess
from pathlib import Path

PATH = "/usr/local/bin:/usr/bin:/bin"
HOSTILE = {
    # the loader and libc
    "LD_PRELOAD": "./x.so", "LD_AUDIT": "./x.so", "LD_LIBRARY_PATH": ".", "LD_DEBUG": "",
    "LD_DEBUG_OUTPUT": "./hostile-ld", "LD_BIND_NOW": "1", "LD_PROFILE": "x.so", "LD_ORIGIN_PATH": ".",
    "GLIBC_TUNABLES": "glibc.malloc.check=3", "MALLOC_PERTURB_": "1", "GCONV_PATH": "./hostile",
    "LOCPATH": "./hostile", "NLSPATH": "./hostile/%N", "LANGUAGE": "hostile", "LC_ALL": "hostile.UTF-8",
    "TMPDIR": "./hostile", "TZDIR": "./hostile", "HOSTALIASES": "./hostile", "RES_OPTIONS": "hostile",
    "LOCALDOMAIN": "hostile", "RESOLV_HOST_CONF": "./hostile", "GETCONF_DIR": "./hostile",
    # shells and what they start
    "BASH_ENV": "./hostile", "ENV": "./hostile", "IFS": "/", "SHELLOPTS": "xtrace", "BASHOPTS": "extdebug",
    "PS4": "$(touch hostile)", "PROMPT_COMMAND": "touch hostile", "CDPATH": "./hostile", "PATH": f".:{PATH}",
    # interpreters
    "PYTHONPATH": ".", "PYTHONSTARTUP": "./hostile", "PYTHONHOME": "", "PYTHONINSPECT": "1",
    "PYTHONBREAKPOINT": "hostile", "PYTHONWARNINGS": "all:0:hostile", "PERL5LIB": ".", "PERL5OPT": "-W",
    "RUBYOPT": "-w", "NODE_OPTIONS": "--no-warnings", "JAVA_TOOL_OPTIONS": "-Dhostile=1",
    # containers and launchers
    "BWRAP_ARGS": "--dev-bind / /", "APPTAINER_BIND": "/:/host", "APPTAINERENV_LD_PRELOAD": "./x.so",
    "SINGULARITY_BIND": "/:/host", "SLURM_CONF": "./hostile", "OMPI_MCA_plm_rsh_agent": "./hostile",
    "HYDRA_LAUNCHER_EXEC": "./hostile", "HOME": "./hostile", "PWD": "./hostile", "OLDPWD": "./hostile",
    "XDG_RUNTIME_DIR": "./hostile", "XDG_CONFIG_HOME": "./hostile",
}  # fmt: skip
"""What a loader, libc, a shell, an interpreter, a container or a launcher obeys."""


def library(compiler: str, at: Path, on_load: str) -> None:
    """A library at `at` that runs the C statements `on_load` in whatever process loads it."""
    source = at.with_suffix(".c")
    source.write_text(LIBRARY.replace("ON_LOAD", on_load))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", at, source], check=True)
    source.unlink()


LIBRARY = r"""
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) { ON_LOAD }
unsigned la_version(unsigned version) { return version; }
"""
NAME_INTO = r"""
    char exe[4096];
    long n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    int into = open("WHERE", O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (into >= 0 && n > 0) { exe[n] = '\n'; (void)!write(into, exe, n + 1); close(into); }
"""
"""Appends the name of the program that loads it to the file WHERE."""
