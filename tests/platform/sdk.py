#!/usr/bin/env python3
"""Drives a running simulator with the platform's official SDK and holds what it answers and tells against the
SDK's models: no unknown field, no unknown value of an enumeration, no wrong type.

usage: sdk.py hold|read http://127.0.0.1:PORT CLIENT SECRET TELEPHONY_CLIENT TELEPHONY_SECRET

hold: tries every endpoint. read: reads what somebody else has written there, and holds what he has sent against its
models; standard input lists [API, method, [argument, …], what must stand there at least].

Exits 1 and names every deviation. The simulator should settle quickly, and not limit calls: the SDK's urllib3
waits out Retry-After by itself, so errors are asked for without it.
"""

import collections
import json
import pathlib
import re
import sys
import time
import traceback
import urllib.error
import urllib.request

import PureCloudPlatformClientV2 as gc
import websocket
from PureCloudPlatformClientV2.default_http_client import DefaultHttpClient
from PureCloudPlatformClientV2.rest import ApiException

import gc_validate

# Longer than anything takes that is waited for.
PATIENCE_S = 10

deviations = []
# (method, path) of calls that the SDK made and the simulator carried out.
carried_out = set()
answers = 0
notifications = 0


# A call as the SDK has it: its path's parameters in their order, the body's, and the model of that.
Method = collections.namedtuple("Method", "api name parameters body carries")


def nameless(path):
    return re.sub(r"\{\w+\}", "{}", path)


def sdk_methods():
    """Every call of the SDK by HTTP method and path, whatever the path's parameters are called."""
    found = {}
    for file in (pathlib.Path(gc.__file__).parent / "apis").glob("*_api.py"):
        text = file.read_text()
        api = re.search(r"^class (\w+)\(", text, re.M).group(1)
        for function in text.split("\n    def ")[1:]:
            by = re.search(r"call_api\(resource_path, '(\w+)'", function)
            if by is None:
                continue
            path = re.search(r"resource_path = '([^']+)'", function).group(1)
            named = dict(re.findall(r"path_params\['(\w+)'\] = params\['(\w+)'\]", function))
            parameters = [named[name] for name in re.findall(r"\{(\w+)\}", path)]
            body = re.search(r"body_params = params\['(\w+)'\]", function)
            carries = body and re.search(rf":param (.+) {body.group(1)}:", function).group(1)
            method = Method(api, function.split("(")[0], parameters, body and body.group(1), carries)
            found[by.group(1), nameless(path)] = method
    return found


METHODS = sdk_methods()


def deviation(where, what):
    deviations.append(f"{where}: {what}")


def expect(where, found, wanted):
    if found != wanted:
        deviation(where, f"{found!r}; {wanted!r} was expected")


class Recorder(DefaultHttpClient):
    """Keeps the last answer as it came: the SDK's models drop what they do not know."""

    def request(self, options):
        self.last = None
        response = super().request(options)
        self.last = response.data
        path = re.sub(r"^https?://[^/]+", "", options.url).split("?")[0]
        carried_out.add((options.method, path))
        return response


class Platform:
    """The SDK with one client's token."""

    def __init__(self, url, client, secret):
        self.recorder = Recorder()
        self.api = gc.api_client.ApiClient(host=url)
        self.api.set_http_client(self.recorder)
        self.api.get_client_credentials_token(client, secret)
        token = json.loads(self.recorder.last)
        expect("POST /oauth/token", sorted(token), ["access_token", "expires_in", "token_type"])

    def call(self, api, method, *arguments, **options):
        """Calls a method of an API and validates the answer's body against what it is declared to return."""
        global answers
        function = getattr(getattr(gc, api)(self.api), method)
        try:
            returned = function(*arguments, **options)
        except (TypeError, ValueError) as error:
            deviation(method, f"the SDK cannot read the answer: {error}")
            returned = None
        answers += 1
        declared = re.search(r":return: (.*)", function.__doc__).group(1).strip()
        if declared == "None":
            expect(method, self.recorder.last, "")
        else:
            problems = []
            body = json.loads(self.recorder.last)
            if body is None:
                problems.append("an empty answer")
            gc_validate.check(declared, body, declared, problems)
            for problem in problems:
                deviation(method, problem)
        return returned


def raw(url, method, path, token=None, body=None):
    """Status and body of a call without the SDK."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data=data, method=method)
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def error_body(where, status_and_body, status):
    found, body = status_and_body
    expect(where, found, status)
    for problem in gc_validate.validate("ErrorBody", body):
        deviation(where, problem)


def until(where, holds):
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            return deviation(where, "it did not come about")
        time.sleep(0.02)


def architect(routing):
    group = routing.call("ArchitectApi", "get_architect_emergencygroups").entities[0]
    group = routing.call("ArchitectApi", "get_architect_emergencygroup", group.id)
    group.enabled = True
    stored = routing.call("ArchitectApi", "put_architect_emergencygroup", group.id, group)
    expect("emergency group's version", stored.version, group.version + 1)
    expect("emergency group's flows", len(stored.emergency_call_flows), len(group.emergency_call_flows))
    try:
        routing.call("ArchitectApi", "put_architect_emergencygroup", group.id, group)
        deviation("put_architect_emergencygroup", "a stale version was taken")
    except ApiException as error:
        expect("a stale version", error.status, 409)
        for problem in gc_validate.validate("ErrorBody", json.loads(error.body)):
            deviation("a stale version", problem)


def rows_and_flows(routing, url):
    table, key = next(iter(raw(url, "GET", "/simulator/objects/data_table_row")[1])).split("/")
    brief = routing.call("ArchitectApi", "get_flows_datatable_rows", table).entities[0]
    expect("a brief row", list(brief), ["key"])
    row = routing.call("ArchitectApi", "get_flows_datatable_row", table, key, showbrief=False)
    row["destination"] = "backup"
    routing.call("ArchitectApi", "put_flows_datatable_row", table, key, body=row)
    row = routing.call("ArchitectApi", "get_flows_datatable_row", table, key, showbrief=False)
    expect("a row", row["destination"], "backup")

    flow = next(iter(raw(url, "GET", "/simulator/objects/flow")[1]))
    launch = gc.FlowExecutionLaunchRequest()
    launch.flow_id, launch.input_data, launch.name = flow, {"incidentId": "INC-1"}, "incident INC-1"
    launched = routing.call("ArchitectApi", "post_flows_executions", launch)
    seen = lambda: routing.call("ArchitectApi", "get_flows_execution", launched.id).status
    until("a flow's end", lambda: seen() == "COMPLETED")


def outbound(routing):
    campaign = routing.call("OutboundApi", "get_outbound_campaigns").entities[0].id
    status = lambda: routing.call("OutboundApi", "get_outbound_campaign", campaign).campaign_status
    routing.call("OutboundApi", "post_outbound_campaign_stop", campaign)
    until("a stopped campaign", lambda: status() == "off")
    routing.call("OutboundApi", "post_outbound_campaign_start", campaign)
    until("a started campaign", lambda: status() == "on")


def queues(routing):
    queue = routing.call("RoutingApi", "get_routing_queues").entities[0]
    queue = routing.call("RoutingApi", "get_routing_queue", queue.id)
    queue.description = "evacuated"
    stored = routing.call("RoutingApi", "put_routing_queue", queue.id, queue)
    expect("a queue", stored.description, "evacuated")
    expect("a queue's members", stored.member_count, queue.member_count)
    member = routing.call("RoutingApi", "get_routing_queue_members", queue.id).entities[0]
    change = gc.QueueMember()
    change.id, change.joined = member.id, False
    routing.call("RoutingApi", "patch_routing_queue_members", queue.id, [change])
    left = lambda: routing.call("RoutingApi", "get_routing_queue_members", queue.id, joined=False).entities
    until("a member who left", lambda: [m.id for m in left()] == [member.id])


def telephony_objects(telephony, url):
    api = "TelephonyProvidersEdgeApi"
    edge = telephony.call(api, "get_telephony_providers_edges").entities[0].id
    telephony.call(api, "get_telephony_providers_edge", edge)
    service = gc.EdgeServiceStateRequest()
    status = lambda: telephony.call(api, "get_telephony_providers_edge", edge).status_code
    for service.in_service, settled in ((False, "INACTIVE"), (True, "ACTIVE")):
        telephony.call(api, "post_telephony_providers_edge_statuscode", edge, body=service)
        until(f"an edge that is {settled}", lambda: status() == settled)
    trunks = telephony.call(api, "get_telephony_providers_edges_trunks", page_size=2)
    expect("trunks of a page", (len(trunks.entities), trunks.page_count), (2, 2))
    trunk = telephony.call(api, "get_telephony_providers_edges_trunk", trunks.entities[0].id).id
    site, route = next(iter(raw(url, "GET", "/simulator/objects/outbound_route")[1])).split("/")
    telephony.call(api, "get_telephony_providers_edges_site_outboundroutes", site)
    found = telephony.call(api, "get_telephony_providers_edges_site_outboundroute", site, route)
    found.external_trunk_bases.reverse()
    stored = telephony.call(api, "put_telephony_providers_edges_site_outboundroute", site, route, found)
    order = lambda route: [base.id for base in route.external_trunk_bases]
    expect("an outbound route's order", order(stored), order(found))
    return edge, trunk


def heard(socket, where, topic):
    """The next message of a topic, validated."""
    global notifications
    message = json.loads(socket.recv())
    notifications += 1
    expect(where, message.get("topicName"), topic)
    kind = gc_validate.topic_class(topic)
    if kind is None:
        # The channel's own: no model of it exists.
        expect(where, list(message.get("eventBody", {})), ["message"])
    else:
        for problem in gc_validate.validate(kind[1], message["eventBody"]):
            deviation(where, problem)
    return message["eventBody"]


def subscriptions(*ids):
    topics = []
    for id in ids:
        topic = gc.ChannelTopic()
        topic.id = id
        topics.append(topic)
    return topics


def channels(telephony, url, edge, trunk):
    available = telephony.call("NotificationsApi", "get_notifications_availabletopics").entities
    unknown = [topic.id for topic in available if gc_validate.topic_class(topic.id.replace("{id}", "x")) is None]
    expect("topics that the platform does not have", unknown, [])
    channel = telephony.call("NotificationsApi", "post_notifications_channels")
    telephony.call("NotificationsApi", "get_notifications_channels")
    edge_topic = f"v2.telephony.providers.edges.{edge}"
    trunk_topic = f"v2.telephony.providers.edges.trunks.{trunk}"
    wanted = subscriptions(edge_topic, "v2.operations.events.1")
    put = telephony.call("NotificationsApi", "put_notifications_channel_subscriptions", channel.id, wanted)
    expect("subscriptions", sorted(topic.state for topic in put.entities), ["Permitted", "Rejected"])
    wanted = subscriptions(trunk_topic)
    telephony.call("NotificationsApi", "post_notifications_channel_subscriptions", channel.id, wanted)
    kept = telephony.call("NotificationsApi", "get_notifications_channel_subscriptions", channel.id)
    expect("kept subscriptions", sorted(topic.id for topic in kept.entities), sorted([edge_topic, trunk_topic]))

    socket = websocket.create_connection(channel.connect_uri, timeout=PATIENCE_S)
    socket.send(json.dumps({"message": "ping"}))
    expect("pong", heard(socket, "ping", "channel.metadata"), {"message": "pong"})
    raw(url, "POST", f"/simulator/trunks/{trunk}", body={"connected": False})
    expect("trunk", heard(socket, "trunk", trunk_topic)["connectedStatus"]["connected"], False)
    telephony.call("TelephonyProvidersEdgeApi", "get_telephony_providers_edges_trunk", trunk)
    raw(url, "POST", f"/simulator/trunks/{trunk}", body={"connected": True, "options": [True, False]})
    states = [one["optionState"] for one in heard(socket, "trunk", trunk_topic)["optionsStatus"]]
    expect("trunk", states, [True, False])
    reboot = gc.EdgeRebootParameters()
    reboot.call_draining_wait_time_seconds = 5
    telephony.call("TelephonyProvidersEdgeApi", "post_telephony_providers_edge_reboot", edge, body=reboot)
    for status in ("OFFLINE", "ONLINE"):
        expect("edge", heard(socket, "edge", edge_topic)["onlineStatus"], status)
    telephony.call("NotificationsApi", "delete_notifications_channel_subscriptions", channel.id)
    raw(url, "POST", "/simulator/sockets", body={"fault": "closing"})
    heard(socket, "closing", "v2.system.socket_closing")
    socket.close()


def operational_events(routing, url):
    definition = routing.call("OperationalEventsApi", "get_usage_events_definitions").entities[0].id
    channel = routing.call("NotificationsApi", "post_notifications_channels")
    topic = f"v2.operations.events.{definition}"
    wanted = subscriptions(topic)
    routing.call("NotificationsApi", "put_notifications_channel_subscriptions", channel.id, wanted)
    socket = websocket.create_connection(channel.connect_uri, timeout=PATIENCE_S)
    event = {"definition": definition, "entity": "entity-1", "error_code": "too.many.requests"}
    for _ in range(3):
        raw(url, "POST", "/simulator/operational-events", body=event)
        heard(socket, "operational event", topic)
    query = gc.EventQueryRequest()
    query.interval, query.sort_order = "2020-01-01T00:00:00.000Z/2100-01-01T00:00:00.000Z", "DESC"
    found = routing.call("OperationalEventsApi", "post_usage_events_query", page_size="2", body=query)
    expect("operational events", (len(found.entities), found.next_uri is not None), (2, True))
    after = found.next_uri.split("after=")[1]
    rest = routing.call("OperationalEventsApi", "post_usage_events_query", page_size="2", after=after, body=query)
    expect("operational events", (len(rest.entities), rest.next_uri), (1, None))

    raw(url, "DELETE", "/simulator/tokens")
    heard(socket, "revoked", f"v2.system.token_revoked.{sys.argv[3]}")
    socket.close()


def errors(url, client, secret):
    platform = Platform(url, client, secret)
    token = platform.api.access_token
    groups = "/api/v2/architect/emergencygroups"
    error_body("no token", raw(url, "GET", groups), 401)
    error_body("no permission", raw(url, "GET", "/api/v2/telephony/providers/edges", token), 403)
    error_body("no group", raw(url, "GET", f"{groups}/nowhere", token), 404)
    error_body("no name", raw(url, "POST", "/api/v2/usage/events/query", token, {}), 400)
    for status in (429, 500, 503):
        fault = {"path_prefix": groups, "outcome": "status", "status": status, "times": 1}
        raw(url, "POST", "/simulator/faults", body=fault)
        error_body("fault", raw(url, "GET", groups, token), status)
    # The SDK waits out Retry-After by itself, and nobody sees the refusal.
    fault = {"path_prefix": groups, "outcome": "status", "status": 429, "retry_after_s": 1, "times": 1}
    raw(url, "POST", "/simulator/faults", body=fault)
    began = time.monotonic()
    platform.call("ArchitectApi", "get_architect_emergencygroups")
    if time.monotonic() - began < 1:
        deviation("Retry-After", "the SDK did not wait")


def untried(url):
    """Routes of the platform that the SDK did not call. The guide's imaginary API has no SDK."""
    for route in raw(url, "GET", "/simulator/routes")[1]:
        path = route["path"]
        if path.startswith("/api/v2/") and not path.startswith("/api/v2/events/"):
            pattern = re.compile(re.sub(r"\\\{[a-z]+\\\}", "[^/]+", re.escape(path)) + "$")
            if not any(method == route["method"] and pattern.match(called) for method, called in carried_out):
                yield route


def arguments(path, uri):
    """The path's parameters, as an object's own address has them; none if it is no address of that kind."""
    pairs = list(zip(path.split("/"), uri.split("/")))
    if any(not name.startswith("{") and name != part for name, part in pairs):
        return None
    found = [part for name, part in pairs if name.startswith("{")]
    return found if len(found) == path.count("{") else None


def try_plain(platform, method, reads, found, example):
    """Calls with the route's example; else what is read is put back, and stays as it was."""
    given = dict(zip(method.parameters, found))
    if method.carries is None or example is not None:
        platform.call(method.api, method.name, **given, **({} if example is None else {method.body: example}))
    elif reads is not None:
        read = lambda: platform.call(reads.api, reads.name, **dict(zip(reads.parameters, found)))
        before = read()
        platform.call(method.api, method.name, **given, **{method.body: before})
        ours = lambda object: {k: v for k, v in object.to_dict().items() if not re.match("version|modified|date_", k)}
        expect(f"{method.name}, as it was read", ours(read()), ours(before))


def plain(url, routing, telephony):
    """Tries what nothing else here tries."""
    kinds = raw(url, "GET", "/simulator/objects")[1].values()
    addresses = [object.get("selfUri", "") for kind in kinds for object in kind.values()]
    for route in untried(url):
        by, path = route["method"], route["path"]
        method, reads = METHODS.get((by, nameless(path))), METHODS.get(("GET", nameless(path)))
        found = [] if "{" not in path else next(filter(None, (arguments(path, uri) for uri in addresses)), None)
        if method is None:
            deviation(f"{by} {path}", "the platform has no such call")
        elif found is not None:
            of_telephony = any(permission.startswith("telephony:") for permission in route["permissions"])
            try:
                try_plain(telephony if of_telephony else routing, method, reads, found, route["example"])
            except ApiException as error:
                deviation(f"{by} {path}", f"{error.status}: {error.body}")
    for route in untried(url):
        deviation(f"{route['method']} {route['path']}", "this script does not try it; give the route an example")


def drive(url, client, secret, telephony_client, telephony_secret):
    routing = Platform(url, client, secret)
    telephony = Platform(url, telephony_client, telephony_secret)
    architect(routing)
    rows_and_flows(routing, url)
    outbound(routing)
    queues(routing)
    edge, trunk = telephony_objects(telephony, url)
    channels(telephony, url, edge, trunk)
    operational_events(routing, url)
    errors(url, client, secret)
    # The tokens from above are revoked.
    plain(url, Platform(url, client, secret), Platform(url, telephony_client, telephony_secret))


def hold_at_least(where, found, wanted):
    """Of an object what is wanted, of a list each: what else the platform shows is its own."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for name, value in wanted.items():
            hold_at_least(f"{where}.{name}" if where else name, found.get(name), value)
    elif isinstance(wanted, list) and isinstance(found, list) and len(found) == len(wanted):
        for number, value in enumerate(wanted):
            hold_at_least(f"{where}[{number}]", found[number], value)
    else:
        expect(where, found, wanted)


def called(by, path):
    """The SDK's method of a call. Of several that its path may be, the one that leaves least open."""
    matches = [
        (pattern.count("{}"), method)
        for (of, pattern), method in METHODS.items()
        if of == by and re.fullmatch(re.escape(pattern).replace(r"\{\}", "[^/]+"), path)
    ]
    return min(matches, default=(0, None), key=lambda match: match[0])[1]


def bodies(url):
    """Holds what others have sent against the models of it: the simulator would take what the platform refuses."""
    for call in raw(url, "GET", "/simulator/calls")[1]["calls"]:
        by, path = call["method"], call["path"]
        if by == "GET" or not path.startswith("/api/v2/"):
            continue
        method = called(by, path)
        if method is None:
            deviation(f"{by} {path}", "the platform has no such call")
        elif method.carries is None:
            expect(f"{by} {path}", call["body"], None)
        else:
            # A row of a data table has the columns that its owner gave it.
            model = "dict(str, object)" if method.carries == "object" else method.carries
            problems = []
            gc_validate.check(model, call["body"], model, problems)
            for problem in problems:
                deviation(f"{by} {path}", problem)


def read(url, client, secret, telephony_client, telephony_secret):
    """Reads objects as the SDK does, through its models and back: what they do not know is gone then."""
    routing = Platform(url, client, secret)
    telephony = Platform(url, telephony_client, telephony_secret)
    for api, method, arguments, wanted in json.load(sys.stdin):
        platform = telephony if api == "TelephonyProvidersEdgeApi" else routing
        # Without it a row shows its key alone.
        options = {"showbrief": False} if method == "get_flows_datatable_row" else {}
        found = platform.call(api, method, *arguments, **options)
        hold_at_least("", platform.api.sanitize_for_serialization(found), wanted)
    bodies(url)


def main():
    try:
        {"hold": drive, "read": read}[sys.argv[1]](*sys.argv[2:])
    except Exception as error:  # what was found so far is told all the same
        traceback.print_exc()
        deviation("this script", f"it could not go on: {error!r}")
    for text in deviations:
        print(text)
    print(f"{answers} answers and {notifications} notifications held against their models")
    return 1 if deviations else 0


if __name__ == "__main__":
    sys.exit(main())
