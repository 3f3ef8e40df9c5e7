"""A node that exists only in the API server, so that a cluster may have thousands of pods on a small machine.

usage: ghosts.py LAB_DIR kubelet      keep the node `ghost` Ready and its pods Running, until stopped
       ghosts.py LAB_DIR pods COUNT   exactly COUNT pods on it, in the namespace `ghosts`; waits until they are Ready

The node has the taint lab.test/ghost:NoSchedule, so a pod gets there by nodeName or by tolerating it. What the
ghost kubelet does for any pod bound to its node, and all it does: report it Running and Ready with an address from
10.244.200.0/21 that nobody answers, and when it is deleted with a grace period let it go at once. It renews the node's
lease, without which the node controller marks the node and its pods NotReady after 20 s and evicts after 300 s.
Standard library only; its requests carry the user agent `lab-ghosts`, so that a count of requests can leave them out.
"""
import concurrent.futures, datetime, http.client, json, ssl, sys, threading, time

API = ("10.244.0.1", 6443)
NODE, NAMESPACE, APP = "ghost", "ghosts", "ghost"
WORKERS = 8  # connections; more does not make one API server on two cores faster
LEASE_SECONDS = 10  # half of the controller manager's grace period of 20 s
READY_WITHIN_SECONDS = 180  # two thousand pods take about a quarter of this on two cores


class Client:
    """Requests with the admin's certificate, one connection for each thread."""

    def __init__(self, lab):
        self.tls = ssl.create_default_context(cafile=f"{lab}/pki/ca.crt")
        self.tls.load_cert_chain(f"{lab}/pki/admin.crt", f"{lab}/pki/admin.key")
        self.of_thread = threading.local()

    def connect(self, timeout):
        return http.client.HTTPSConnection(*API, context=self.tls, timeout=timeout)

    def send(self, connection, method, path, body, kind):
        headers = {"User-Agent": "lab-ghosts", "Content-Type": kind, "Accept": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        return connection.getresponse()

    def ask(self, method, path, body=None, kind="application/json", accept=()):
        """The answer as an object, or None where the server answers one of the codes in `accept`."""
        for attempt in range(3):
            connection = getattr(self.of_thread, "connection", None)
            if connection is None:
                connection = self.of_thread.connection = self.connect(30)
            try:
                answer = self.send(connection, method, path, body, kind)
                text = answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                self.of_thread.connection = None
                if attempt == 2:
                    raise
                continue
            if answer.status in accept:
                return None
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()[:300]}")
            return json.loads(text)

    def watch(self, path):
        """Each event of one watch; ends when the server ends it."""
        connection = self.connect(90)
        try:
            answer = self.send(connection, "GET", path, None, "application/json")
            if answer.status != 200:
                raise RuntimeError(f"GET {path}: {answer.status}")
            for line in answer:
                yield json.loads(line)
        finally:
            connection.close()


def now(fraction=False):
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S" + (".%f" if fraction else "") + "Z")


def merge(client, path, body, accept=()):
    return client.ask("PATCH", path, body, "application/merge-patch+json", accept)


def create_node(client):
    client.ask("POST", "/api/v1/nodes", {
        "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE, "topology.kubernetes.io/zone": "zone-ghost"}},
        "spec": {"taints": [{"key": "lab.test/ghost", "effect": "NoSchedule"}]},
    }, accept=(409,))
    room = {"cpu": "10000", "memory": "10Ti", "pods": "100000"}
    merge(client, f"/api/v1/nodes/{NODE}/status", {"status": {
        "capacity": room, "allocatable": room,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Ghost", "message": "no kubelet here",
                        "lastHeartbeatTime": now(), "lastTransitionTime": now()}],
    }})
    client.ask("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", {
        "metadata": {"name": NODE}, "spec": {"holderIdentity": NODE, "leaseDurationSeconds": 40, "renewTime": now(True)},
    }, accept=(409,))


def renew_forever(client):
    while True:
        try:
            merge(client, f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE}", {"spec": {"renewTime": now(True)}})
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            print(f"renewing the lease: {error}", flush=True)
        time.sleep(LEASE_SECONDS)


def address(number):
    return f"10.244.{200 + number // 250 % 8}.{1 + number % 250}"


def settle(client, pod, number):
    """What a kubelet would do about this pod; nothing if it has been done."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    uid = pod["metadata"]["uid"]
    if "deletionTimestamp" in pod["metadata"]:
        client.ask("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}, accept=(404, 409))
        return
    if pod["status"].get("phase") != "Pending":
        return
    ready = [{"type": kind, "status": "True", "lastTransitionTime": now()} for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")]
    containers = [{
        "name": container["name"], "image": container["image"], "imageID": "ghost", "containerID": f"ghost://{uid}",
        "ready": True, "started": True, "restartCount": 0, "state": {"running": {"startedAt": now()}},
    } for container in pod["spec"]["containers"]]
    merge(client, path + "/status", {"metadata": {"uid": uid}, "status": {
        "phase": "Running", "startTime": now(), "conditions": ready, "containerStatuses": containers,
        "podIP": address(number), "podIPs": [{"ip": address(number)}], "hostIP": "10.244.0.200",
    }}, accept=(404, 409))


def kubelet(client):
    create_node(client)
    threading.Thread(target=renew_forever, args=(client,), daemon=True).start()
    pods = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{NODE}"
    number = 0
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as workers:
        while True:
            try:
                seen = client.ask("GET", pods)
                for pod in seen["items"]:
                    number += 1
                    workers.submit(report, settle, client, {**pod}, number)
                since = seen["metadata"]["resourceVersion"]
                for event in client.watch(f"{pods}&watch=1&resourceVersion={since}&timeoutSeconds=60"):
                    if event["type"] == "ERROR":
                        break
                    if event["type"] != "DELETED":
                        number += 1
                        workers.submit(report, settle, client, event["object"], number)
            except (OSError, RuntimeError, http.client.HTTPException, ValueError) as error:
                print(f"watching pods: {error}", flush=True)
                time.sleep(1)


def report(act, *arguments):
    try:
        act(*arguments)
    except Exception as error:
        print(error, flush=True)


def pods(client, count):
    base = f"/api/v1/namespaces/{NAMESPACE}"
    client.ask("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}}, accept=(409,))
    wait_until("the default service account", lambda: client.ask("GET", f"{base}/serviceaccounts/default", accept=(404,)))

    def create(index):
        client.ask("POST", f"{base}/pods", {
            "metadata": {"name": f"ghost-{index}", "labels": {"app": APP}},
            "spec": {
                "nodeName": NODE, "automountServiceAccountToken": False, "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "ghost", "image": "lab.test/pause:1", "resources": {"requests": {"cpu": "1m"}}}],
            },
        }, accept=(409,))

    def delete(name):
        client.ask("DELETE", f"{base}/pods/{name}", {"gracePeriodSeconds": 0}, accept=(404,))

    def listed():
        return client.ask("GET", f"{base}/pods?labelSelector=app%3D{APP}&resourceVersion=0")["items"]

    wanted = {f"ghost-{index}" for index in range(count)}
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as workers:
        list(workers.map(delete, {pod["metadata"]["name"] for pod in listed()} - wanted))
        list(workers.map(create, range(count)))
    if count == 0:
        client.ask("DELETE", f"/api/v1/nodes/{NODE}", accept=(404,))
        client.ask("DELETE", f"/api/v1/namespaces/{NAMESPACE}", accept=(404, 409))
        wait_until("the namespace to end", lambda: client.ask("GET", base, accept=(404,)) is None)
        return

    def all_ready():
        conditions = [{each["type"]: each["status"] for each in pod["status"].get("conditions", [])} for pod in listed()]
        return sum(each.get("Ready") == "True" for each in conditions) == count

    wait_until(f"{count} pods to be Ready", all_ready)


def wait_until(what, condition):
    latest = time.monotonic() + READY_WITHIN_SECONDS
    while not condition():
        if time.monotonic() > latest:
            sys.exit(f"ghosts: waited {READY_WITHIN_SECONDS} s for {what}")
        time.sleep(0.5)


def main():
    match sys.argv[1:]:
        case [lab, "kubelet"]:
            kubelet(Client(lab))
        case [lab, "pods", count]:
            pods(Client(lab), int(count))
        case _:
            sys.exit(__doc__)


main()
