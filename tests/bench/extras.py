# SPDX-License-Identifier: LGPL-2.1-or-later
"""What does not compare with QEMU: the cost of tracing, and what populated page tables are worth."""
import tracing_cost

MEASURE = {"tracing": lambda rounds: tracing_cost.measure(rounds)}
MARKDOWN = {"tracing": tracing_cost.markdown}
SECONDS = {"tracing": 270}  # with ROUNDS
ROUNDS = 5


def markdown(name, entry):
    info = entry["machine"]
    where = f"Row `{name}`; {info['date']}, {info['godwit']} ({info['source']})."
    return f"{MARKDOWN[name](entry['results']).rstrip()}\n\n{where}"
