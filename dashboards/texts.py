"""All texts of dashboards and alerts, in English and Vietnamese. Pure.

Invariant: one table has every text in both languages, with the same placeholders. Only SI units, proper names and the names of
sensors are written elsewhere.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from citybeat.devices.catalogue import Metric

Language = Literal["en", "vi"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)

TEXTS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        # --- dashboards ---
        "city.title": ("City overview", "Tổng quan thành phố"),
        "city.about": (
            "Places and states of the sensors, and present problems.",
            "Vị trí, tình trạng cảm biến và những gì đang trục trặc.",
        ),
        "traffic.title": ("Traffic", "Giao thông"),
        "traffic.about": ("Volume, speed and occupancy.", "Lưu lượng, tốc độ và mức độ đông."),
        "environment.title": ("Environment", "Môi trường"),
        "environment.about": (
            "Air quality, weather, noise and water, with legal limits.",
            "Chất lượng không khí, thời tiết, tiếng ồn và nước, kèm giới hạn theo quy định.",
        ),
        "energy.title": ("Energy", "Năng lượng"),
        "energy.about": ("Load, voltage and consumption.", "Phụ tải, điện áp và mức tiêu thụ."),
        "sensor.title": ("Sensor", "Cảm biến"),
        "sensor.about": ("One metric of one device.", "Một đại lượng của một thiết bị."),
        "quality.title": ("Data quality", "Chất lượng dữ liệu"),
        "quality.about": ("Readings that are bad, missing or refused.", "Số đo nào xấu, thiếu hoặc bị từ chối."),
        "ingest.title": ("Ingest", "Tiếp nhận dữ liệu"),
        "ingest.about": (
            "Completeness and delay of ingest: every reading is accounted for.",
            "Mức đầy đủ và độ trễ khi tiếp nhận: mọi số đo đều được hạch toán.",
        ),
        # --- rows, links, variables ---
        "row.districts": ("By district", "Theo khu vực"),
        "row.devices": ("By device", "Theo thiết bị"),
        "row.air": ("Air quality", "Chất lượng không khí"),
        "row.load": ("Load", "Phụ tải"),
        "row.consumption": ("Consumption", "Tiêu thụ"),
        "row.voltage": ("Voltage quality", "Chất lượng điện áp"),
        "row.quarantine": ("Quarantine", "Cách ly"),
        "row.processes": ("Processes", "Tiến trình"),
        "link.boards": ("Dashboards", "Bảng điều khiển"),
        "link.sensor": ("Show the sensor", "Xem cảm biến"),
        "all": ("All", "Tất cả"),
        "variable.district": ("District", "Khu vực"),
        "variable.device": ("Device", "Thiết bị"),
        "variable.metric": ("Metric", "Đại lượng"),
        "variable.aggregate": ("Aggregate", "Phép tổng hợp"),
        "variable.zone": ("Time zone of days", "Múi giờ tính ngày"),
        "variable.standard": ("Limits", "Giới hạn"),
        "variable.source": ("Source", "Nguồn"),
        "aggregate.usual": ("usual", "thông thường"),
        "aggregate.mean": ("mean", "trung bình"),
        "aggregate.min": ("smallest", "nhỏ nhất"),
        "aggregate.max": ("largest", "lớn nhất"),
        "aggregate.last": ("last", "cuối cùng"),
        "aggregate.stddev": ("standard deviation", "độ lệch chuẩn"),
        "per_hour": ("vehicles/h", "xe/giờ"),
        "domain.traffic": ("traffic", "giao thông"),
        "domain.environment": ("environment", "môi trường"),
        "domain.energy": ("energy", "năng lượng"),
        # --- states, flags, verdicts, outcomes, bands ---
        "state.ok": ("good", "tốt"),
        "state.bad": ("bad values", "giá trị xấu"),
        "state.stuck": ("stuck", "đứng giá trị"),
        "state.overdue": ("overdue", "quá hạn"),
        "state.silent": ("never reported", "chưa từng gửi"),
        "flag.range": ("outside the plausible range", "ngoài khoảng hợp lý"),
        "flag.step": ("changed too fast", "thay đổi quá nhanh"),
        "flag.stuck": ("stuck", "đứng giá trị"),
        "flag.suspect": ("suspect", "đáng ngờ"),
        "flag.late": ("late", "đến muộn"),
        "flag.future": ("ahead of the server's clock", "sớm hơn đồng hồ hệ thống"),
        "flag.clock": ("no time of its own", "không có dấu thời gian"),
        "flag.manual_bad": ("declared bad", "được khai báo xấu"),
        "flag.manual_good": ("declared good", "được khai báo tốt"),
        "verdict.bad": ("bad", "xấu"),
        "verdict.good": ("good", "tốt"),
        "verdict.clear": ("withdrawn", "đã rút lại"),
        "outcome.received": ("received", "nhận được"),
        "outcome.stored": ("stored", "đã lưu"),
        "outcome.duplicate": ("duplicates", "trùng lặp"),
        "outcome.conflict": ("conflicts", "mâu thuẫn"),
        "outcome.missing": ("missing values", "giá trị thiếu"),
        "outcome.quarantined": ("quarantined", "bị cách ly"),
        "status.online": ("online", "trực tuyến"),
        "status.offline": ("offline", "ngoại tuyến"),
        "band.good": ("Good", "Tốt"),
        "band.moderate": ("Moderate", "Trung bình"),
        "band.poor": ("Poor", "Kém"),
        "band.bad": ("Bad", "Xấu"),
        "band.very_bad": ("Very bad", "Rất xấu"),
        "band.hazardous": ("Hazardous", "Nguy hại"),
        # --- columns ---
        "column.device": ("Device", "Thiết bị"),
        "column.name": ("Name", "Tên"),
        "column.district": ("District", "Khu vực"),
        "column.metric": ("Metric", "Đại lượng"),
        "column.state": ("State", "Trạng thái"),
        "column.wrong": ("Metrics with problems", "Đại lượng trục trặc"),
        "column.latitude": ("Latitude", "Vĩ độ"),
        "column.longitude": ("Longitude", "Kinh độ"),
        "column.since": ("Since", "Từ lúc"),
        "column.value": ("Value", "Giá trị"),
        "column.unit": ("Unit", "Đơn vị"),
        "column.devices": ("Devices", "Số thiết bị"),
        "column.sensors": ("Sensors", "Số cảm biến"),
        "column.doubtful": ("Bad or stuck", "Xấu hoặc đứng giá trị"),
        "column.quiet": ("Overdue or silent", "Quá hạn hoặc im lặng"),
        "column.band": ("Category", "Mức"),
        "column.hour": ("Hour", "Giờ"),
        "column.span": ("Mean over", "Trung bình trong"),
        "column.limit": ("Limit", "Giới hạn"),
        "column.worst": ("Largest mean", "Trung bình lớn nhất"),
        "column.above": ("Times above", "Số lần vượt"),
        "column.periods": ("Periods", "Tổng số chu kỳ"),
        "column.lowest": ("Lowest", "Thấp nhất"),
        "column.highest": ("Highest", "Cao nhất"),
        "column.outside": ("Time outside", "Thời gian ngoài khoảng"),
        "column.coverage": ("Coverage", "Độ phủ"),
        "column.bad_share": ("Bad readings", "Tỷ lệ số đo xấu"),
        "column.bad": ("bad", "xấu"),
        "column.good": ("good", "tốt"),
        "column.time": ("Time", "Thời gian"),
        "column.flags": ("Flags", "Cờ"),
        "column.last": ("Last reading", "Lần cuối nhận được"),
        "column.from": ("From", "Từ"),
        "column.to": ("To", "Đến"),
        "column.verdict": ("Verdict", "Kết luận"),
        "column.by": ("Declared by", "Người khai báo"),
        "column.reason": ("Reason", "Lý do"),
        "column.source": ("Source", "Nguồn"),
        "column.received": ("Readings received", "Số đo nhận được"),
        "column.messages": ("Messages", "Bản tin"),
        "column.first": ("Oldest", "Cũ nhất"),
        "column.status": ("Status", "Kết nối"),
        "column.redelivered": ("Redelivered", "Gửi lại"),
        "column.undecodable": ("Unreadable", "Không đọc được"),
        "column.never": ("Never received", "Không bao giờ đến"),
        "column.overflow": ("Not kept in quarantine", "Không giữ được trong cách ly"),
        # --- when there is nothing ---
        "none.sensors": ("No sensor is registered here", "Chưa đăng ký cảm biến nào ở đây"),
        "none.sensor": ("This device has no such sensor", "Thiết bị này không có cảm biến đó"),
        "none.places": ("No device has coordinates", "Chưa thiết bị nào có tọa độ"),
        "none.wrong": ("No problems", "Không có gì trục trặc"),
        "none.chart": (
            "No good reading in this range, no sensor of this metric, or an aggregate that the metric does not have",
            "Không có số đo tốt trong khoảng này, không có cảm biến đo đại lượng này, hoặc phép tổng hợp không áp dụng được",
        ),
        "none.aqi": ("No station has enough particle readings for an index", "Chưa trạm nào đủ số liệu bụi để tính chỉ số"),
        "none.limits": (
            "No metric measured here has a limit in this standard",
            "Không đại lượng nào ở đây có giới hạn trong quy chuẩn này",
        ),
        "none.never": ("Never reported", "Chưa từng gửi"),
        "none.flags": (
            "No flagged reading, or the range is longer than two days",
            "Không có số đo bị gắn cờ, hoặc khoảng thời gian dài hơn hai ngày",
        ),
        "none.declared": ("No declarations", "Chưa có khai báo nào"),
        "none.quarantine": ("No messages in quarantine", "Không có gì bị cách ly"),
        "none.ledger": ("No readings were received", "Chưa nhận được số đo nào"),
        "none.prometheus": ("Prometheus has no such figures", "Prometheus không có số liệu này"),
        # --- charts ---
        "about.chart": (
            (
                "Metric {metric}. At most {lines} devices are shown; select others above. A point is a minute for ranges up to two days, a "
                "quarter-hour up to a month, then an hour or a day."
            ),
            (
                "Đại lượng {metric}. Tối đa {lines} thiết bị: chọn thiết bị khác ở trên. Mỗi điểm là một phút (đến hai ngày), 15 phút (đến một "
                "tháng), sau đó là giờ và ngày."
            ),
        ),
        "by_district": ("{metric} by district", "{metric} theo khu vực"),
        "by_district.about": ("Mean over the devices of each district.", "Trung bình các thiết bị trong mỗi khu vực."),
        "city.standing": ("Sensors", "Cảm biến"),
        "city.map": ("Devices by their worst sensor", "Thiết bị theo cảm biến kém nhất"),
        "city.map.about": (
            "Green: all sensors are good. The base map is loaded from the internet; without it only the points are shown.",
            "Xanh: mọi cảm biến đều tốt. Bản đồ nền lấy từ internet; không có thì vẫn còn các điểm.",
        ),
        "city.layer": ("Devices", "Thiết bị"),
        "city.wrong": ("Present problems", "Đang trục trặc"),
        "city.wrong.about": (
            "Overdue: silent for three expected intervals. Stuck and bad: by the flags of the newest reading.",
            "Quá hạn: im lặng hơn ba chu kỳ gửi. Đứng giá trị và xấu: theo cờ của số đo mới nhất.",
        ),
        "city.now": ("Now: {domain}, mean of good sensors", "Hiện tại: {domain}, trung bình các cảm biến tốt"),
        "city.districts": ("Districts", "Các khu vực"),
        "environment.aqi": ("VN_AQI", "VN_AQI"),
        "environment.aqi.about": (
            "By Decision 1459/QĐ-TCMT, from good readings: hourly for ranges up to a month, otherwise daily.",
            "Quyết định 1459/QĐ-TCMT, từ số liệu tốt: theo giờ đến một tháng, theo ngày nếu dài hơn.",
        ),
        "environment.bands": ("VN_AQI category by station", "Mức VN_AQI theo trạm"),
        "environment.bands.about": (
            "Good to 50, moderate to 100, poor to 150, bad to 200, very bad to 300, hazardous above.",
            "Tốt đến 50, trung bình đến 100, kém đến 150, xấu đến 200, rất xấu đến 300, nguy hại trên 300.",
        ),
        "environment.now": ("VN_AQI now", "VN_AQI hiện tại"),
        "environment.now.about": (
            "The newest hour with an index within the last three hours.",
            "Giờ mới nhất có chỉ số, trong ba giờ qua.",
        ),
        "environment.above": ("Above the limits", "Vượt giới hạn"),
        "environment.above.about": (
            "Means over an hour, moving 8 hours and local days, if readings cover at least three quarters of the time; yearly limits are only drawn.",
            "Trung bình giờ, trung bình trượt 8 giờ và ngày địa phương khi có ít nhất ba phần tư thời gian; giới hạn năm chỉ được vẽ.",
        ),
        "energy.peak": ("Peak of the range", "Phụ tải đỉnh"),
        "energy.peak.about": ("Of the sum over all selected meters.", "Tính trên tổng các công tơ đã chọn."),
        "energy.peak.value": ("Peak", "Đỉnh"),
        "energy.peak.at": ("At", "Lúc"),
        "energy.peak.mean": ("Mean", "Trung bình"),
        "energy.load": ("Load by district", "Phụ tải theo khu vực"),
        "energy.load.about": ("Sum of the mean active power of all meters.", "Tổng công suất tác dụng trung bình của các công tơ."),
        "energy.consumption": ("Consumption by district and day", "Tiêu thụ theo khu vực và ngày"),
        "energy.consumption.about": (
            "Increase of meter readings, and energy of intervals, by local day. The first and last day may be incomplete.",
            "Mức tăng của công tơ và điện năng theo chu kỳ, theo ngày địa phương. Ngày đầu và ngày cuối có thể chưa đủ.",
        ),
        "energy.voltage": ("Voltage within limits", "Điện áp trong giới hạn"),
        "energy.voltage.about": (
            "Share of buckets in which the phase voltage stayed between {low} and {high} V.",
            "Tỷ lệ các khoảng mà điện áp pha nằm trong {low} đến {high} V.",
        ),
        "energy.worst": ("Voltage by device", "Điện áp theo thiết bị"),
        "sensor.newest": ("newest", "mới nhất"),
        "sensor.health": ("State and quality", "Hoạt động và chất lượng"),
        "sensor.health.about": (
            "Coverage: share of the expected readings that were received.",
            "Độ phủ: số đo nhận được trên số đo dự kiến.",
        ),
        "sensor.age": ("Age", "Đã qua"),
        "sensor.expected": ("Expected every", "Chu kỳ dự kiến"),
        "sensor.delay": ("Transmission time", "Thời gian truyền"),
        "sensor.values": ("Values", "Giá trị"),
        "sensor.values.about": (
            "Single readings for ranges up to two days, bad or suspect ones as points; the rollup for every range.",
            "Từng số đo đến hai ngày, số đo xấu hoặc đáng ngờ là các chấm; số liệu tổng hợp ở mọi khoảng thời gian.",
        ),
        "sensor.raw": ("reading", "số đo"),
        "sensor.flagged": ("flagged", "bị gắn cờ"),
        "sensor.counts": ("Readings", "Số lượng số đo"),
        "sensor.counts.about": (
            "Good readings, and readings that a flag excludes from the rollups.",
            "Số đo tốt và số đo bị cờ loại khỏi tổng hợp.",
        ),
        "sensor.coverage.about": (
            "Share of the expected readings that were received, good or bad.",
            "Số đo nhận được, tốt hay xấu, trên số đo dự kiến.",
        ),
        "sensor.flags": ("Flagged readings", "Số đo bị gắn cờ"),
        "sensor.flags.about": ("For ranges of two days at most.", "Chỉ với khoảng thời gian tối đa hai ngày."),
        "sensor.siblings": ("All sensors of the device", "Mọi cảm biến của thiết bị"),
        "sensor.declared": ("Declarations of operators", "Khai báo của người vận hành"),
        "sensor.declared.about": ("Where two overlap, the upper one applies.", "Khi chồng nhau, dòng trên có hiệu lực."),
        "quality.sums": ("In this range", "Trong khoảng này"),
        "quality.waiting": ("Messages in quarantine", "Bản tin bị cách ly"),
        "quality.bad": ("Bad readings", "Số đo xấu"),
        "quality.bad.about": (
            "Share of readings that a flag excludes from the rollups: range, step, stuck or declared bad.",
            "Tỷ lệ bị cờ loại khỏi tổng hợp: ngoài khoảng, nhảy bước, đứng giá trị hoặc khai báo xấu.",
        ),
        "quality.coverage": ("Coverage", "Độ phủ"),
        "quality.coverage.about": (
            "Share of the expected readings that were received, by the sensors registered today.",
            "Số đo nhận được trên số đo dự kiến của các cảm biến đăng ký hiện nay.",
        ),
        "quality.flags": ("Flags of the newest readings", "Cờ của số đo mới nhất"),
        "quality.flags.about": ("Number of sensors whose newest reading has the flag.", "Số cảm biến đang mang từng cờ."),
        "quality.overdue": ("Sensors with problems", "Cảm biến trục trặc"),
        "quality.overdue.about": ("Those silent for longest first.", "Im lặng lâu nhất đứng đầu."),
        "quality.quarantine": ("Refused messages by reason", "Bản tin bị từ chối theo lý do"),
        "quality.quarantine.about": ("docs/mqtt.md explains the reasons.", "Mã lý do: docs/mqtt.md."),
        "quality.open": ("Messages in quarantine by source", "Bản tin bị cách ly theo nguồn"),
        "quality.open.about": (
            "`citybeat quarantine list` shows them; `citybeat quarantine replay` retries them when the cause is fixed.",
            "`citybeat quarantine list` liệt kê; `citybeat quarantine replay` thử lại khi nguyên nhân đã được khắc phục.",
        ),
        "ingest.sums": ("Ledger", "Sổ cái"),
        "ingest.sums.about": (
            "The difference between received readings and the sum of all outcomes, over all time; it must be 0.",
            "Chênh lệch là số nhận được trừ mọi kết cục, từ trước đến nay; phải bằng 0.",
        ),
        "ingest.difference": ("Difference", "Chênh lệch"),
        "ingest.stored": ("Stored", "Đã lưu"),
        "ingest.age": ("Since the last message", "Từ bản tin cuối"),
        "ingest.behind": ("Quarter-hours to recompute", "Khoảng 15 phút chờ tính lại"),
        "ingest.outcomes": ("Readings a minute", "Số đo mỗi phút"),
        "ingest.outcomes.about": ("By minute of receipt and outcome.", "Theo phút nhận và kết cục của chúng."),
        "ingest.messages": ("Messages a minute by source", "Bản tin mỗi phút theo nguồn"),
        "ingest.delay": ("From measurement to receipt", "Từ lúc đo đến lúc nhận"),
        "ingest.delay.about": ("For the newest reading of each sensor.", "Tính trên số đo mới nhất của mỗi cảm biến."),
        "ingest.median": ("Median", "Trung vị"),
        "ingest.slow": ("95 %", "95 %"),
        "ingest.slowest": ("Slowest", "Chậm nhất"),
        "ingest.sources": ("Sources", "Các nguồn"),
        "ingest.sources.about": (
            "Never received: message numbers missing in the newest run of the source; some may still arrive.",
            "Không bao giờ đến: số thứ tự thiếu trong lần chạy mới nhất của nguồn; một số có thể còn trên đường.",
        ),
        "ingest.no_prometheus": ("Workers and spool", "Tiến trình và bộ đệm"),
        "ingest.no_prometheus.text": (
            (
                "Figures of workers, the spool and the time from receipt to commit are only at `/metrics` of ingest "
                "(docs/operations.md). If a Prometheus scrapes it, build the dashboards with `--prometheus UID`, the uid of its data "
                "source, to show them here."
            ),
            (
                "Số tiến trình, bộ đệm và thời gian từ nhận đến lưu chỉ có trong các tiến trình, tại `/metrics` của ingest "
                "(docs/operations.md). Khi có Prometheus đọc địa chỉ đó, hãy tạo bảng điều khiển với `--prometheus UID` (uid của nguồn dữ "
                "liệu) và chúng sẽ hiện ở đây."
            ),
        ),
        "ingest.workers": ("Workers up", "Tiến trình đang chạy"),
        "ingest.spool": ("Spool", "Bộ đệm"),
        "ingest.spool_age": ("Age of the oldest spooled message", "Tuổi bản tin cũ nhất trong bộ đệm"),
        "ingest.commit": ("From receipt to commit", "Từ nhận đến lưu"),
        # --- alerts ---
        "alert.limit": ("Limit exceeded", "Vượt giới hạn"),
        "alert.limit.summary": (
            '{{ $labels.device }}: {{ $labels.metric }} is {{ printf "%.1f" $values.A.Value }} times its limit (mean of {{ $labels.span }})',
            '{{ $labels.device }}: {{ $labels.metric }} gấp {{ printf "%.1f" $values.A.Value }} lần giới hạn (trung bình {{ $labels.span }})',
        ),
        "alert.limit.todo": (
            (
                "Look at the sensor and its neighbours. If only this one is high, declare its readings bad (citybeat declare bad) and have it "
                "checked; otherwise inform those who warn the public."
            ),
            (
                "Xem cảm biến này và các cảm biến lân cận. Nếu chỉ mình nó cao, khai báo số đo xấu (citybeat declare bad) và cho kiểm tra; nếu "
                "không, báo cho bộ phận cảnh báo người dân."
            ),
        ),
        "alert.overdue": ("Sensors overdue", "Cảm biến quá hạn"),
        "alert.overdue.summary": (
            "{{ $values.A.Value }} sensors of {{ $labels.source }} are silent",
            "{{ $values.A.Value }} cảm biến của {{ $labels.source }} im lặng",
        ),
        "alert.overdue.todo": (
            (
                "If all sensors of the source are silent, check the gateway: power, network, MQTT password. Otherwise check the devices that "
                "citybeat devices overdue lists. Retire devices that were taken down (citybeat devices retire)."
            ),
            (
                "Nếu mọi cảm biến của nguồn im lặng, kiểm tra gateway: nguồn điện, mạng, mật khẩu MQTT. Nếu không, kiểm tra các thiết bị do "
                "citybeat devices overdue liệt kê. Thiết bị đã tháo thì cho ngừng (citybeat devices retire)."
            ),
        ),
        "alert.ledger": ("The ledger does not balance", "Sổ cái không cân"),
        "alert.ledger.summary": (
            "{{ $labels.source }}: {{ $values.A.Value }} readings are not accounted for",
            "{{ $labels.source }}: {{ $values.A.Value }} số đo không được hạch toán",
        ),
        "alert.ledger.todo": (
            "This is a fault in citybeat or the database. Keep the logs of ingest, run citybeat ledger, and report both.",
            "Đây là lỗi của citybeat hoặc cơ sở dữ liệu. Giữ lại nhật ký của ingest, chạy citybeat ledger và báo lỗi kèm cả hai.",
        ),
        "alert.lag": ("No data received", "Không nhận được dữ liệu"),
        "alert.lag.summary": (
            'The last message was stored {{ printf "%.0f" $values.A.Value }} s ago',
            'Bản tin cuối được lưu cách đây {{ printf "%.0f" $values.A.Value }} giây',
        ),
        "alert.lag.todo": (
            "See ingest's /readyz. Is the broker up, and ingest connected to it? Does the disk of the database have space?",
            "Xem /readyz của ingest. Broker có chạy và ingest có kết nối không? Đĩa của cơ sở dữ liệu còn chỗ không?",
        ),
        "alert.quarantine": ("Quarantine surge", "Cách ly tăng vọt"),
        "alert.quarantine.summary": (
            "{{ $values.A.Value }} messages of {{ $labels.source }} were refused in 15 minutes",
            "{{ $values.A.Value }} bản tin của {{ $labels.source }} bị từ chối trong 15 phút",
        ),
        "alert.quarantine.todo": (
            (
                "citybeat quarantine list shows the reasons. Register unknown devices, or correct the sender; then citybeat quarantine replay "
                "retries the messages that were kept."
            ),
            (
                "citybeat quarantine list cho biết lý do. Đăng ký thiết bị chưa biết hoặc sửa bên gửi; sau đó citybeat quarantine replay thử "
                "lại các bản tin đã giữ."
            ),
        ),
        "alert.spool": ("The spool is filling", "Bộ đệm đang đầy dần"),
        "alert.spool.summary": (
            'Messages have waited for the database for {{ printf "%.0f" $values.A.Value }} s',
            'Bản tin đã chờ cơ sở dữ liệu {{ printf "%.0f" $values.A.Value }} giây',
        ),
        "alert.spool.todo": (
            (
                "Is the database up, and does its disk have space? Nothing is lost before the spool is full (CITYBEAT_SPOOL_BYTES); then the "
                "broker keeps new messages."
            ),
            (
                "Cơ sở dữ liệu có chạy, đĩa có đầy không? Chưa mất gì cho đến khi bộ đệm đầy (CITYBEAT_SPOOL_BYTES); sau đó broker giữ những gì "
                "đến."
            ),
        ),
        "alert.commit": ("Ingest is delayed", "Tiếp nhận bị chậm"),
        "alert.commit.summary": (
            'Messages take {{ printf "%.0f" $values.A.Value }} s from receipt to commit (95 %)',
            'Từ nhận đến lưu mất {{ printf "%.0f" $values.A.Value }} giây (95 %)',
        ),
        "alert.commit.todo": (
            "Is the database slow (long queries, a full disk, a backup)? If it is not, give ingest more workers (CITYBEAT_WORKERS).",
            "Cơ sở dữ liệu có chậm không (truy vấn dài, đĩa đầy, sao lưu)? Nếu không, tăng số tiến trình của ingest (CITYBEAT_WORKERS).",
        ),
        # --- annotations ---
        "annotation.quarantine": ("Quarantine", "Cách ly"),
        "annotation.quarantine.text": ("%s messages refused (%s)", "%s bản tin bị từ chối (%s)"),
        "annotation.outage": ("Outages", "Gián đoạn"),
        "annotation.outage.text": ("No message was received from any source", "Không nhận được gì từ mọi nguồn"),
    }
)


class Texts:
    """The texts in one language."""

    def __init__(self, language: Language) -> None:
        self.language: Final = language
        self._column: Final = LANGUAGES.index(language)

    def __call__(self, key: str, **values: Any) -> str:
        """The text of a key, with its placeholders filled.

        Examples
        --------
        >>> Texts("vi")("by_district", metric="PM2.5")
        'PM2.5 theo khu vực'
        """
        text = TEXTS[key][self._column]
        return text.format(**values) if values else text

    def metric(self, metric: Metric) -> str:
        """Name of a metric for people; a city's own metric without one is shown by its identifier."""
        label = metric.label_vi if self.language == "vi" else metric.label
        return label or metric.name
