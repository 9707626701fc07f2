package executor

import (
	"sync/atomic"
	"time"

	"diego.internal/executor/transfer"
)

// Figure is a counter of a client under the name that it is published with.
type Figure struct {
	// Name ends in _total; times are in seconds and divided by the counter beside them yield a mean.
	Name, Help string
	Value      func(*Client) float64
}

// Figures are all counters, for whoever publishes them.
func Figures() []Figure {
	count := func(name, help string, counter func(*Client) *atomic.Int64) Figure {
		return Figure{Name: name, Help: help, Value: func(c *Client) float64 { return float64(counter(c).Load()) }}
	}
	seconds := func(name, help string, nanos func(*Counters) *atomic.Int64) Figure {
		return Figure{Name: name, Help: help, Value: func(c *Client) float64 { return time.Duration(nanos(c.counters).Load()).Seconds() }}
	}
	transferSeconds := func(name, help string, nanos func(*transfer.Counters) *atomic.Int64) Figure {
		return Figure{Name: name, Help: help, Value: func(c *Client) float64 { return time.Duration(nanos(c.transfers.Counters()).Load()).Seconds() }}
	}
	return []Figure{
		count("containers_created_total", "Containers made.", func(c *Client) *atomic.Int64 { return &c.counters.Creations.Succeeded }),
		seconds("container_creation_seconds_total", "Time taken by containers made.", func(c *Counters) *atomic.Int64 { return &c.Creations.SucceededNanos }),
		count("container_creations_failed_total", "Containers that could not be made.", func(c *Client) *atomic.Int64 { return &c.counters.Creations.Failed }),
		seconds("container_creation_failed_seconds_total", "Time taken by containers that could not be made.", func(c *Counters) *atomic.Int64 { return &c.Creations.FailedNanos }),
		count("container_setups_total", "Setup actions that succeeded.", func(c *Client) *atomic.Int64 { return &c.counters.Setups.Succeeded }),
		seconds("container_setup_seconds_total", "Time from the order to the end of setup actions that succeeded.", func(c *Counters) *atomic.Int64 { return &c.Setups.SucceededNanos }),
		count("container_setups_failed_total", "Setup actions that failed.", func(c *Client) *atomic.Int64 { return &c.counters.Setups.Failed }),
		seconds("container_setup_failed_seconds_total", "Time from the order to the end of setup actions that failed.", func(c *Counters) *atomic.Int64 { return &c.Setups.FailedNanos }),
		count("containers_completed_total", "Containers that ended.", func(c *Client) *atomic.Int64 { return &c.counters.Completed }),
		count("containers_exited_on_timeout_total", "Processes that had to be killed, or did not exit.", func(c *Client) *atomic.Int64 { return &c.counters.Steps.ExitedOnTimeout }),
		count("containers_destroyed_total", "Containers destroyed.", func(c *Client) *atomic.Int64 { return &c.counters.Destructions.Succeeded }),
		seconds("container_destruction_seconds_total", "Time taken by containers destroyed.", func(c *Counters) *atomic.Int64 { return &c.Destructions.SucceededNanos }),
		count("container_destructions_failed_total", "Attempts to destroy a container that failed.", func(c *Client) *atomic.Int64 { return &c.counters.Destructions.Failed }),
		seconds("container_destruction_failed_seconds_total", "Time taken by attempts to destroy a container that failed.", func(c *Counters) *atomic.Int64 { return &c.Destructions.FailedNanos }),
		count("tcp_liveness_checks_failed_total", "Containers that ended because a check by TCP failed after it had passed.", func(c *Client) *atomic.Int64 { return &c.counters.LivenessTCPFailed }),
		count("http_liveness_checks_failed_total", "Containers that ended because a check by HTTP failed after it had passed.", func(c *Client) *atomic.Int64 { return &c.counters.LivenessHTTPFailed }),
		count("downloads_total", "Downloads that were received in full.", func(c *Client) *atomic.Int64 { return &c.transfers.Counters().Downloads }),
		transferSeconds("download_seconds_total", "Time taken by downloads that were received in full.", func(c *transfer.Counters) *atomic.Int64 { return &c.DownloadNanos }),
		count("download_bytes_total", "Bytes received.", func(c *Client) *atomic.Int64 { return &c.transfers.Counters().DownloadBytes }),
		count("downloads_not_modified_total", "Downloads that the cache had already.", func(c *Client) *atomic.Int64 { return &c.transfers.Counters().DownloadsNotModified }),
		count("downloads_failed_total", "Downloads that failed after all attempts.", func(c *Client) *atomic.Int64 { return &c.transfers.Counters().DownloadsFailed }),
		count("uploads_total", "Uploads that were taken.", func(c *Client) *atomic.Int64 { return &c.transfers.Counters().Uploads }),
		transferSeconds("upload_seconds_total", "Time taken by uploads that were taken.", func(c *transfer.Counters) *atomic.Int64 { return &c.UploadNanos }),
		count("uploads_failed_total", "Uploads that failed after all attempts.", func(c *Client) *atomic.Int64 { return &c.transfers.Counters().UploadsFailed }),
		count("container_metrics_missing_total", "Times that the engine could not tell the metrics of a container.", func(c *Client) *atomic.Int64 { return &c.counters.MetricsMissing }),
		count("engine_checks_failed_total", "Checks of the container engine that failed.", func(c *Client) *atomic.Int64 { return &c.counters.EngineChecksFailed }),
		count("instance_credentials_created_total", "Certificates issued to containers, rotations included.", func(c *Client) *atomic.Int64 { return &c.counters.Credentials.Succeeded }),
		seconds("instance_credential_creation_seconds_total", "Time taken by certificates issued.", func(c *Counters) *atomic.Int64 { return &c.Credentials.SucceededNanos }),
		count("instance_credentials_failed_total", "Certificates that could not be issued.", func(c *Client) *atomic.Int64 { return &c.counters.Credentials.Failed }),
		count("container_to_container_credentials_created_total", "Certificates issued to proxies for other containers, rotations and changes of internal routes included.", func(c *Client) *atomic.Int64 { return &c.counters.C2CCredentials.Succeeded }),
		seconds("container_to_container_credential_creation_seconds_total", "Time taken by certificates issued for other containers.", func(c *Counters) *atomic.Int64 { return &c.C2CCredentials.SucceededNanos }),
		count("container_to_container_credentials_failed_total", "Certificates for other containers that could not be issued.", func(c *Client) *atomic.Int64 { return &c.counters.C2CCredentials.Failed }),
		count("log_rate_limit_exceeded_total", "Times that an instance exceeded its log rate limit.", func(c *Client) *atomic.Int64 { return &c.logs.Counters().RateExceeded }),
		count("log_lines_dropped_total", "Lines that log rate limits kept out.", func(c *Client) *atomic.Int64 { return &c.logs.Counters().LinesDropped }),
		count("log_bytes_dropped_total", "Bytes that log rate limits kept out.", func(c *Client) *atomic.Int64 { return &c.logs.Counters().BytesDropped }),
		count("log_lines_lost_total", "Lines that the disk of the cell was too slow for.", func(c *Client) *atomic.Int64 { return &c.logs.Counters().LinesLost }),
	}
}
