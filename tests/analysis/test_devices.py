import random

from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.load import DeviceIdentity, device_labels, fact

H100 = "NVIDIA H100 80GB HBM3"
IDENTITIES = st.builds(
    DeviceIdentity,
    st.sampled_from([H100, "NVIDIA L4", "AMD EPYC (2 threads)"]),
    st.sampled_from([None, 350.0, 700.0]),
    st.sampled_from([None, 1980.0]),
    st.none(),
    st.sampled_from([None, "a", "b"]),
)


def test_one_device_of_a_name_is_called_by_that_name():
    one, other = DeviceIdentity(H100, 700.0, host="a"), DeviceIdentity("NVIDIA L4", 72.0, host="b")
    assert device_labels([one, other]) == {one: "H100 80GB HBM3", other: "L4"}


def test_power_limits_tell_same_named_devices_apart():
    slow, fast = DeviceIdentity(H100, 350.0, host="a"), DeviceIdentity(H100, 700.0, host="b")
    assert device_labels([slow, fast]) == {slow: "H100 80GB HBM3 (350 W)", fast: "H100 80GB HBM3 (700 W)"}


def test_only_what_tells_apart_is_said():
    first, second = (
        DeviceIdentity(H100, 700.0, 1980.0, host="a"),
        DeviceIdentity(H100, 700.0, 1980.0, host="b"),
    )
    third = DeviceIdentity(H100, 350.0, 1980.0, host="a")
    assert device_labels([first, second, third]) == {
        first: "H100 80GB HBM3 (700 W, on a)",
        second: "H100 80GB HBM3 (700 W, on b)",
        third: "H100 80GB HBM3 (350 W)",
    }


def test_clocks_and_what_is_not_recorded():
    known, unknown = DeviceIdentity(H100, None, 1980.0), DeviceIdentity(H100, None, None)
    labels = device_labels([known, unknown])
    assert labels == {known: "H100 80GB HBM3 (1980 MHz)", unknown: "H100 80GB HBM3 (clock unknown)"}


@given(st.lists(IDENTITIES, min_size=1, max_size=8), st.randoms())
def test_labels_are_distinct_and_do_not_depend_on_the_order(identities, rng: random.Random):
    labels = device_labels(identities)
    assert set(labels) == set(identities)
    assert len(set(labels.values())) == len(labels)
    shuffled = list(identities)
    rng.shuffle(shuffled)
    assert device_labels(shuffled) == labels


def test_facts_are_found_where_they_are_and_none_elsewhere():
    assert fact({"cuda": {"power_limit_w": 350.0}}, "power_limit_w") == 350.0
    assert fact({"cuda": None, "host": "a"}, "power_limit_w") is None
    assert fact({"cuda": None, "host": "a"}, "host") == "a"
    nvml = {"cuda": {"uuid": "u"}, "nvml": {"driver": "580", "sm_clock_max_mhz": 1980.0}}
    assert (fact(nvml, "driver"), fact(nvml, "uuid"), fact(nvml, "sm_clock_mhz")) == ("580", "u", 1980.0)
    nvml["nvml"]["application_sm_clock_mhz"] = 1410.0
    assert fact(nvml, "sm_clock_mhz") == 1410.0
