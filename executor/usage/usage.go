// Package usage derives from samples of a container what a single one cannot tell: how much of a processor it uses now, how
// much of what it is entitled to, and when it last used more than that. It is pure: samples come with their times.
package usage

import "time"

// Sample of one container. Used, Entitled and Age count from its creation.
type Sample struct {
	At                  time.Time
	Used, Entitled, Age time.Duration
}

// Meter holds what is derived from the samples so far; the zero value has seen none. It is a value.
type Meter struct {
	// CPUPercent is of one core, 100 being all of it, between the last two samples; 0 before there are two.
	CPUPercent float64
	// EntitlementPercent is of what the container was entitled to between the last two samples; 0 before there are two, or
	// if it is entitled to nothing.
	EntitlementPercent float64
	// SpikeStart and SpikeEnd are those of the latest time during which it used more than its entitlement. SpikeEnd is zero
	// while that goes on, both are if it never has.
	SpikeStart, SpikeEnd time.Time

	last Sample
}

// Add returns the meter after one more sample. A sample that is older than the last one, or of a container that has begun
// anew, is a first one; the spikes before it stay.
func (m Meter) Add(s Sample) Meter {
	before := m.last
	m.last, m.CPUPercent, m.EntitlementPercent = s, 0, 0
	if before.At.IsZero() || s.Age <= before.Age || s.Used < before.Used {
		return m
	}
	used, entitled := s.Used-before.Used, s.Entitled-before.Entitled
	m.CPUPercent = 100 * float64(used) / float64(s.Age-before.Age)
	if entitled <= 0 {
		return m
	}
	m.EntitlementPercent = 100 * float64(used) / float64(entitled)
	spiking := !m.SpikeStart.IsZero() && m.SpikeEnd.IsZero()
	switch {
	case used > entitled && !spiking:
		m.SpikeStart, m.SpikeEnd = before.At, time.Time{}
	case used <= entitled && spiking:
		m.SpikeEnd = before.At
	}
	return m
}
