"""`i2f doctor`: is everything in place?"""

from __future__ import annotations

import json
from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Check this installation. Says what is wrong and what to do, and exits with 1 then.

    Looked at are versions, the operator library and its instruction set tier, a known answer of every operator, and
    threads.
    """
    from inter2former_deploy.runtime.doctor import examine, to_dict

    findings = examine()
    problems = sum(not finding.ok for finding in findings)
    if as_json:
        typer.echo(json.dumps(to_dict(findings), indent=2))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            typer.echo(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.name:<{width}}  {finding.detail}")
            if finding.advice:
                typer.echo(f"{'':7}{'':{width}}  -> {finding.advice}")
        typer.echo("all is well" if not problems else f"{problems} of {len(findings)} checks found something wrong")
    raise typer.Exit(int(problems > 0))
