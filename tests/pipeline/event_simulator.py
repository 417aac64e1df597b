#!/usr/bin/env python3
"""A second simulator of pipeline schedules, driven by events, that shares nothing with the first.

Reads lines of event_instances from standard input, plays each schedule and compares step time, busy
time and peak memory. Exits 1 at the first difference.
"""

import heapq
import json
import re
import sys
from collections import defaultdict, deque


def read_schedule(text):
    """Placement, and per rank a list of (kind, stage, microbatch)."""
    placement, ranks = [], []
    for line in text.splitlines():
        if line.startswith("placement"):
            placement = [int(word) for word in line.split()[1:]]
        elif line.startswith("rank"):
            cells = re.findall(r"(\d+)(SEND_F|SEND_B|RECV_F|RECV_B|REDUCE_GRAD|F|B|I|W)(\d*)", line.split(":")[1])
            ranks.append([(kind, int(stage), int(mb or -1)) for stage, kind, mb in cells])
    return placement, ranks


class Player:
    def __init__(self, instance):
        self.placement, lists = read_schedule(instance["schedule"])
        self.cost, self.depth = instance["stages"], instance["prefetch"]
        lowered = any(kind.startswith("SEND") for actions in lists for kind, _, _ in actions)
        self.compute = [deque(a for a in actions if a[0] in "FBIW") for actions in lists]
        self.lanes = defaultdict(deque)  # (source, destination, F or B) -> transfers to come
        self.reductions = [deque(a for a in actions if a[0] == "REDUCE_GRAD") for actions in lists]
        for actions in lists:
            for kind, stage, mb in actions:
                if lowered and kind.startswith("SEND"):
                    self.queue_transfer(kind[-1], stage, mb)
                elif not lowered and kind in "FBI":
                    self.queue_transfer("F" if kind == "F" else "B", stage, mb)
        self.left = defaultdict(int)  # weight gradients still to come, by stage
        for actions in lists:
            for kind, stage, _ in actions:
                self.left[stage] += kind in "BW"
        self.ready = {}  # (F or B, consuming stage, mb) -> data is there
        self.made, self.consumed = set(), set()
        self.busy_until = {}  # resources at work
        self.memory = [[] for _ in lists]  # (time, turn, order, bytes)
        self.busy, self.last = [0.0] * len(lists), [0.0] * len(lists)
        self.events, self.now, self.order = [], 0.0, 0
        self.moved = defaultdict(list)

    def queue_transfer(self, direction, stage, mb):
        target = stage + (1 if direction == "F" else -1)
        if 0 <= target < len(self.placement) and self.placement[target] != self.placement[stage]:
            self.lanes[self.placement[stage], self.placement[target], direction].append((direction, stage, target, mb))

    def remember(self, rank, turn, amount):
        self.order += 1
        self.memory[rank].append((self.now, turn, self.order, amount))

    def begin(self, resource, seconds, finish):
        self.order += 1
        self.busy_until[resource] = self.now + seconds
        heapq.heappush(self.events, (self.now + seconds, self.order, resource, finish))

    def has_input(self, kind, stage, mb):
        if kind == "W":
            return True
        source = stage - 1 if kind == "F" else stage + 1
        return not 0 <= source < len(self.placement) or ("F" if kind == "F" else "B", stage, mb) in self.ready

    def start_compute(self, rank):
        if not self.compute[rank] or ("rank", rank) in self.busy_until:
            return False
        kind, stage, mb = self.compute[rank][0]
        if not self.has_input(kind, stage, mb):
            return False
        self.compute[rank].popleft()
        cost = self.cost[stage]
        source = stage - 1 if kind == "F" else stage + 1
        remote = kind in "FBI" and 0 <= source < len(self.placement) and self.placement[source] != rank
        if remote and kind == "F":
            self.remember(rank, 0, -cost["input"])
        self.remember(rank, 1, {"F": cost["activation"], "W": 0}.get(kind, cost["transient"]))

        def finish():
            freed = {"F": 0, "B": -cost["activation"] - cost["transient"],
                     "I": cost["weight_activation"] - cost["activation"] - cost["transient"],
                     "W": -cost["weight_activation"]}[kind]
            self.remember(rank, 1, freed)
            if remote and kind != "F":
                self.remember(rank, 0, -cost["output"])
            self.busy[rank] += cost[kind]
            self.last[rank] = self.now
            if kind in "BW":
                self.left[stage] -= 1
            if kind == "W":
                return
            direction, target = ("F", stage + 1) if kind == "F" else ("B", stage - 1)
            self.consumed.add((direction, stage, mb))
            if 0 <= target < len(self.placement):
                self.made.add((direction, stage, mb))
                if self.placement[target] == rank:
                    self.ready[direction, target, mb] = True
                else:
                    self.remember(rank, 2, cost["output"] if direction == "F" else cost["input"])

        self.begin(("rank", rank), cost[kind], finish)
        return True

    def start_transfer(self, lane):
        if not self.lanes[lane] or lane in self.busy_until:
            return False
        direction, stage, target, mb = self.lanes[lane][0]
        if (direction, stage, mb) not in self.made:
            return False
        before = self.moved[lane]
        if self.depth and len(before) >= self.depth and before[-self.depth] not in self.consumed:
            return False
        self.lanes[lane].popleft()
        before.append((direction, target, mb))
        amount = self.cost[stage]["output" if direction == "F" else "input"]
        self.remember(lane[1], 2, amount)

        def finish():
            self.remember(lane[0], 0, -amount)
            self.ready[direction, target, mb] = True

        self.begin(lane, self.cost[stage]["SEND_" + direction], finish)
        return True

    def start_reduction(self, rank):
        if not self.reductions[rank] or ("reduce", rank) in self.busy_until:
            return False
        stage = self.reductions[rank][0][1]
        if self.left[stage]:
            return False
        self.reductions[rank].popleft()

        def finish():
            self.last[rank] = max(self.last[rank], self.now)

        self.begin(("reduce", rank), self.cost[stage]["REDUCE_GRAD"], finish)
        return True

    def play(self):
        ranks = range(len(self.compute))
        while True:
            progress = True
            while progress:
                progress = any([self.start_compute(r) | self.start_reduction(r) for r in ranks]
                               + [self.start_transfer(lane) for lane in list(self.lanes)])
            if not self.events:
                break
            self.now, _, resource, finish = heapq.heappop(self.events)
            del self.busy_until[resource]
            finish()
        assert not any(self.compute) and not any(self.lanes.values()) and not any(self.reductions), "stuck"
        step, peaks = 0.0, []
        for rank in ranks:
            stages = [cost for stage, cost in enumerate(self.cost) if self.placement[stage] == rank]
            update = sum(cost["optimizer"] for cost in stages)
            self.busy[rank] += update
            step = max(step, self.last[rank] + update)
            held = peak = sum(cost["fixed"] for cost in stages)
            for _, _, _, amount in sorted(self.memory[rank]):
                held += amount
                peak = max(peak, held)
            peaks.append(peak)
        return step, self.busy, peaks


def main():
    count = 0
    for line in sys.stdin:
        instance = json.loads(line)
        step, busy, peaks = Player(instance).play()
        pairs = [(step, instance["step_time"], "step time")]
        for rank, expected in enumerate(instance["ranks"]):
            pairs.append((busy[rank], expected["busy"], f"busy of rank {rank}"))
            pairs.append((peaks[rank], expected["peak_bytes"], f"peak of rank {rank}"))
        for mine, theirs, what in pairs:
            if abs(mine - theirs) > 1e-9 * max(1.0, abs(mine)):
                print(instance["schedule"])
                print(f"instance {count}, {what}: {mine} here, {theirs} in simulate()")
                return 1
        count += 1
    wanted = int(sys.argv[1])
    print(f"{count} instances agree")
    return 0 if count == wanted else 1


if __name__ == "__main__":
    sys.exit(main())
