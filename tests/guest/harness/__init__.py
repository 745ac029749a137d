# SPDX-License-Identifier: LGPL-2.1-or-later
"""What guest tests and benchmarks are made of: networks, hosts, virtual machines, heartbeats."""
