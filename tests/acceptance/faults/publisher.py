"""One source's connection: sends its traffic as the broker takes it, and remembers what was acknowledged and when."""

import threading
import time
from collections.abc import Callable, Iterator

import paho.mqtt.client as mqtt

from tests.acceptance.faults.traffic import Sent

#: Messages without an answer, at most.
WINDOW = 200
#: "No matching subscribers" (MQTT 5, section 3.4.2.1): taken, and forgotten. Nobody may be told that such a message is safe.
_NOBODY_LISTENS = 0x10
#: s between pings: a source notices soon that the broker is gone.
_KEEPALIVE = 5


class Publisher:
    """Sends what an iterator gives, from a thread of its own.

    Unanswered messages are sent again when the connection is back, in order, as MQTT wants it (paho does).

    Parameters
    ----------
    port : int
        The broker's.
    source, password : str
    messages : iterator of Sent
        Endless.
    rate : float
        Messages a second.
    """

    def __init__(self, port: int, source: str, password: str, messages: Iterator[Sent], rate: float) -> None:
        self.sent: list[Sent] = []
        self._messages = messages
        self._pause = 1 / rate
        self._changed = threading.Condition()
        self._unanswered: dict[int, Sent] = {}  # by packet identifier
        self._early: dict[int, tuple[float, str | None]] = {}  # answers that came before publish() returned
        self._answered = 0
        self._finished = False
        self._failure: BaseException | None = None
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"{source}-faults", protocol=mqtt.MQTTv5)
        self._client.username_pw_set(source, password)
        self._client.max_inflight_messages_set(WINDOW)
        self._client.max_queued_messages_set(0)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_publish = self._on_publish
        self._client.connect("127.0.0.1", port, keepalive=_KEEPALIVE)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run, name=f"traffic of {source}", daemon=True)
        self._thread.start()

    @property
    def answered(self) -> int:
        """Messages that the broker has answered."""
        return self._answered

    def wait_answered(self, more: int, patience: float) -> None:
        """Wait until so many more messages are answered."""
        with self._changed:
            goal = self._answered + more
            self._wait(lambda: self._answered >= goal, patience)

    def finish(self, patience: float) -> list[Sent]:
        """Send no more, wait until everything has an answer, and disconnect; everything that was sent."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()
        self._thread.join(patience)
        with self._changed:
            self._wait(lambda: not self._unanswered, patience)
        self.close()
        return self.sent

    def close(self) -> None:
        """Give up whatever is unanswered."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()
        self._client.disconnect()
        self._client.loop_stop()

    def _wait(self, ready: Callable[[], bool], patience: float) -> None:
        done = self._changed.wait_for(lambda: self._failure is not None or ready(), patience)
        if self._failure is not None:
            raise self._failure
        assert done, f"the broker answered {self._answered} of {len(self.sent)} messages, and no more for {patience} s"

    def _run(self) -> None:
        try:
            due = time.monotonic()
            for message in self._messages:
                with self._changed:
                    due = max(due + self._pause, time.monotonic() - 1)  # after an outage, at most a second's worth at once
                    self._changed.wait_for(lambda: self._finished, max(0.0, due - time.monotonic()))
                    self._changed.wait_for(lambda: self._finished or len(self._unanswered) < WINDOW)
                    if self._finished:
                        return
                # Not under the lock: paho holds a lock of its own when it calls back, and takes the same one here.
                self.sent.append(message)
                mid = self._client.publish(message.topic, message.payload, qos=1).mid
                with self._changed:
                    self._unanswered[mid] = message
                    if mid in self._early:
                        self._answer(mid, *self._early.pop(mid))
        except BaseException as exc:
            self._failure = exc

    def _on_publish(self, _client, _data, mid, reason, _properties) -> None:
        why = reason.getName() if reason.is_failure or reason.value == _NOBODY_LISTENS else None
        with self._changed:
            if mid in self._unanswered:
                self._answer(mid, time.monotonic(), why)
            else:
                self._early[mid] = (time.monotonic(), why)

    def _answer(self, mid: int, at: float, why: str | None) -> None:
        message = self._unanswered.pop(mid)
        if why is None:
            message.acknowledged = at
        else:
            message.refused = why
        self._answered += 1
        self._changed.notify_all()
