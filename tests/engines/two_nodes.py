"""A Ray cluster of two nodes with one CPU each, for as long as standard input is open; `add` and `remove` a node."""

import sys

from ray.cluster_utils import Cluster

SIZE = {"num_cpus": 1, "object_store_memory": 200 * 2**20, "include_dashboard": False}


def main():
    cluster = Cluster(initialize_head=True, head_node_args=SIZE)
    nodes = [cluster.add_node(**SIZE)]
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "add":
            nodes.append(cluster.add_node(**SIZE))
            cluster.wait_for_nodes()
        elif line.strip() == "remove":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
