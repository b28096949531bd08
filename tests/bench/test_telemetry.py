"""Energy meters and sensors on a fake /sys and a fake NVML module."""

from __future__ import annotations

import types

import pytest

from mirnet_edge.bench import telemetry
from mirnet_edge.bench.telemetry import (
    NvidiaGpus,
    PowerMeter,
    board_gpu_mhz,
    open_board,
    open_rapl,
    open_sensors,
    read_conditions,
)

_RANGE = 1_000_000


@pytest.fixture
def write(tmp_path):
    """Write files of a fake /sys: write({"path": "text"}) returns its folder."""

    def make(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return tmp_path

    return make


@pytest.fixture
def rapl(write):
    """Write CPU packages: rapl(energy, ...) in microjoules, and zones that are not packages."""

    def make(*energies):
        files = {}
        for number, energy in enumerate(energies):
            zone = f"class/powercap/intel-rapl:{number}"
            files |= {f"{zone}/name": f"package-{number}", f"{zone}/energy_uj": energy,
                      f"{zone}/max_energy_range_uj": _RANGE}  # fmt: skip
        # would be counted twice: a part of a package, the platform, the package's second interface
        others = {
            "intel-rapl:0:0": "core",
            "intel-rapl:9": "psys",
            "intel-rapl-mmio:0": "package-0",
        }
        for folder, name in others.items():
            zone = f"class/powercap/{folder}"
            files |= {f"{zone}/name": name, f"{zone}/energy_uj": 7,
                      f"{zone}/max_energy_range_uj": _RANGE}  # fmt: skip
        return write(files)

    return make


@pytest.fixture
def ina(write):
    """Write the rails of a board: ina({"VDD_IN": (millivolts, milliamperes)})."""

    def make(rails):
        chip = "class/hwmon/hwmon3"
        files = {f"{chip}/name": "ina3221", f"{chip}/in7_label": "sum of shunt voltages",
                 f"{chip}/curr7_input": 99, f"{chip}/in7_input": 99,
                 "class/hwmon/hwmon1/name": "coretemp"}  # fmt: skip
        for number, (name, (voltage, current)) in enumerate(rails.items(), 1):
            files |= {f"{chip}/in{number}_label": name, f"{chip}/in{number}_input": voltage,
                      f"{chip}/curr{number}_input": current}  # fmt: skip
        return write(files)

    return make


def test_every_package_is_counted_once(rapl):
    meter, note = open_rapl(rapl(100, 500))
    assert note == ""
    assert meter.joules() == 0.0
    rapl(100 + 30_000, 500 + 12_000)
    assert meter.joules() == pytest.approx(0.042)


def test_a_counter_that_wraps_around_continues(rapl):
    meter, _ = open_rapl(rapl(_RANGE - 100))
    for energy in (_RANGE - 50, 25, _RANGE - 1, 0):
        rapl(energy)
        last = meter.joules()
    # 50, then 75 over the edge, then to the last, then 1 over the edge
    assert last == pytest.approx((50 + 75 + (_RANGE - 26) + 1) / 1e6)


def test_an_unreadable_counter_has_no_energy(rapl, tmp_path):
    meter, _ = open_rapl(rapl(5))
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").write_text("?")
    assert meter.joules() is None


def test_a_counter_that_only_root_may_read_has_one_note(rapl, monkeypatch):
    from pathlib import Path

    system = rapl(1, 2)
    read = Path.read_text

    def refused(self, *arguments, **options):
        if self.name == "energy_uj":  # tests in containers run as root, which may read everything
            raise PermissionError(13, "Permission denied")
        return read(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    meter, note = open_rapl(system)
    assert meter is None
    assert "can only be read by root" in note
    assert "sudo chmod" in note
    found = open_sensors(system)
    assert list(found.notes) == [note]
    assert found.joules() == found.covers == {}


def test_the_board_is_its_input_rail_where_it_has_one(ina):
    rails = {"VDD_CPU_GPU_CV": (5000, 400), "VDD_IN": (5000, 2000), "NC": (5000, 10)}
    system, clock = ina(rails), [0.0]
    meter, _ = open_board(system, clock=lambda: clock[0])
    assert meter.covers == "board (VDD_IN)"
    meter.sample()  # 10 W
    clock[0] = 2.0
    ina(rails | {"VDD_IN": (5000, 4000)})  # 20 W
    meter.sample()
    assert meter.joules() == pytest.approx(2 * 15.0)


def test_without_an_input_rail_the_rails_are_summed(ina):
    clock = [0.0]
    rails = {"VDD_GPU_SOC": (5000, 1000), "VDD_CPU_CV": (5000, 400), "NC": (5000, 9)}
    meter, _ = open_board(ina(rails), clock=lambda: clock[0])
    assert meter.covers == "board (sum of VDD_CPU_CV, VDD_GPU_SOC)"
    meter.sample()
    clock[0] = 3.0
    assert meter.joules() == pytest.approx(3 * 7.0)


def test_power_is_integrated_within_the_context_and_a_failed_sensor_has_no_energy():
    clock, power = [0.0], [4.0]
    meter = PowerMeter(lambda: power[0], "", clock=lambda: clock[0])
    with meter.watching():
        clock[0] = 1.0
        assert meter.joules() == pytest.approx(4.0)
    clock[0] = 100.0
    with meter.watching():
        clock[0] = 101.0
        assert meter.joules() == pytest.approx(8.0)
        power[0] = None
        assert meter.joules() is None


class NVMLError(Exception):
    pass


def _nvml(has_energy=True, has_power=True, gpus=2):
    """Return a fake pynvml: GPUs of 1 and 2 kJ, 50 and 100 W."""

    def energy(gpu):
        if not has_energy:
            raise NVMLError("Not Supported")
        return 1_000_000 * gpu

    def power(gpu):
        if not has_power:
            raise NVMLError("Not Supported")
        return 50_000 * gpu

    return types.SimpleNamespace(
        NVMLError=NVMLError, NVML_CLOCK_GRAPHICS=0, NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetCount=lambda: gpus, nvmlDeviceGetHandleByIndex=lambda place: place + 1,
        nvmlDeviceGetClockInfo=lambda gpu, kind: 1000 * gpu,
        nvmlDeviceGetTemperature=lambda gpu, kind: 40 * gpu,
        nvmlDeviceGetTotalEnergyConsumption=energy, nvmlDeviceGetPowerUsage=power,
    )  # fmt: skip


def test_gpus_have_clock_temperature_and_energy():
    gpus = NvidiaGpus(_nvml())
    assert (gpus.clock_mhz(), gpus.celsius()) == (1500.0, 80.0)
    meter = gpus.meter()
    assert (meter.covers, meter.joules()) == ("all 2 GPUs (NVML)", 3000.0)
    assert NvidiaGpus(_nvml(gpus=1)).meter().covers == "GPU (NVML)"


def test_gpus_without_energy_counter_integrate_power_and_without_power_have_no_meter():
    meter = NvidiaGpus(_nvml(has_energy=False)).meter()
    assert isinstance(meter, PowerMeter)
    assert NvidiaGpus(_nvml(has_energy=False, has_power=False)).meter() is None


def test_meters_are_those_that_the_machine_has(rapl, ina, tmp_path, monkeypatch):
    nothing = open_sensors(tmp_path / "none")
    assert "not measured" in " ".join(nothing.notes)
    assert nothing.covers == {}
    monkeypatch.setattr(telemetry, "open_gpus", lambda *, driver_loaded: (NvidiaGpus(_nvml()), ""))
    rapl(1)
    everything = open_sensors(ina({"VDD_IN": (5000, 2000)}))
    assert everything.notes == ()
    assert list(everything.covers) == ["package", "gpu", "board"]
    with everything.watching():
        assert everything.joules().keys() == everything.covers.keys()
    state = everything.conditions()
    assert (state.gpu_clock_mhz, state.gpu_celsius) == (1500.0, 80.0)


def test_a_driver_without_pynvml_has_a_note_how_to_install_it(write, monkeypatch):
    monkeypatch.setattr(telemetry, "available", lambda name: False)
    (note,) = open_sensors(write({"module/nvidia/version": "580"})).notes
    assert "pip install nvidia-ml-py" in note


def test_clocks_and_temperatures_come_from_sysfs(write):
    system = write(
        {
            "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": 2_000_000,
            "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": 3_000_000,
            "class/thermal/thermal_zone0/temp": 51_000,
            "class/thermal/thermal_zone1/temp": "broken",
            "class/devfreq/17000000.gpu/cur_freq": 918_000_000,
            "class/devfreq/15340000.vic/cur_freq": 115_000_000,
        }
    )
    state = read_conditions(system)
    assert (state.clock_mhz, state.celsius) == (2500.0, 51.0)
    assert board_gpu_mhz(system) == 918.0
    assert board_gpu_mhz(system / "none") is None
