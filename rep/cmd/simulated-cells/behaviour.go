package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
)

// Behaviour is the section behaviour: what becomes of containers and processes. Shares are from 0 to 1. Processes of
// setup actions and of monitors succeed at once, sidecars run until they are stopped; the rest is said here.
type Behaviour struct {
	// StartDelay is how long the creation of a container takes. Default 0.
	StartDelay Span `yaml:"start_delay"`
	// CreationFailures is the share of creations that fail, after that delay. Default 0.
	CreationFailures float64 `yaml:"creation_failures"`
	// Crashes is the share of the processes of instances that crash, with exit code 1, CrashAfter their start; the others
	// run until they are stopped. Default 0.
	Crashes    float64 `yaml:"crashes"`
	CrashAfter Span    `yaml:"crash_after"`
	// TaskDuration is how long a process of a task runs, TaskFailures the share of them that fail then, with exit code 1.
	// Default 0.
	TaskDuration Span    `yaml:"task_duration"`
	TaskFailures float64 `yaml:"task_failures"`
}

// Validate checks the ranges.
func (b *Behaviour) Validate() error {
	var problems []error
	for _, share := range []struct {
		name  string
		value float64
	}{{"creation_failures", b.CreationFailures}, {"crashes", b.Crashes}, {"task_failures", b.TaskFailures}} {
		if !(share.value >= 0 && share.value <= 1) { // NaN is outside too
			problems = append(problems, fmt.Errorf("%s: must be from 0 to 1, is %v", share.name, share.value))
		}
	}
	return errors.Join(problems...)
}

// Span is a distribution of durations. Without a mean all values from Min to Max are as likely; with one, values begin at
// Min, become rarer with their size such that they would be Mean on average, and end at Max.
type Span struct {
	Min  time.Duration `yaml:"min"`
	Mean time.Duration `yaml:"mean"`
	Max  time.Duration `yaml:"max"`
}

// Validate checks the order.
func (s *Span) Validate() error {
	if s.Min < 0 || s.Max < s.Min || s.Mean != 0 && (s.Mean < s.Min || s.Mean > s.Max) {
		return fmt.Errorf("min, mean and max: must not be negative and must rise, are %v, %v and %v", s.Min, s.Mean, s.Max)
	}
	return nil
}

func (s Span) draw() time.Duration {
	switch {
	case s.Max == s.Min:
		return s.Min
	case s.Mean == 0:
		return s.Min + rand.N(s.Max-s.Min+1) //nolint:gosec // chance, not secrecy
	default:
		return min(s.Max, s.Min+time.Duration(rand.ExpFloat64()*float64(s.Mean-s.Min))) //nolint:gosec // chance, not secrecy
	}
}

func happens(share float64) bool { return share > 0 && rand.Float64() < share } //nolint:gosec // chance, not secrecy

var errCreation = errors.New("simulated failure of the creation")

// create is a simulated.Config.OnCreate.
func (b *Behaviour) create(garden.ContainerSpec) (time.Duration, error) {
	if happens(b.CreationFailures) {
		return b.StartDelay.draw(), errCreation
	}
	return b.StartDelay.draw(), nil
}

// run is a simulated.Config.OnRun. What a process is for shows in its name, which the executor makes from its place in the
// workload.
func (b *Behaviour) run(container garden.ContainerSpec, process garden.ProcessSpec) simulated.Fate {
	switch {
	case strings.HasPrefix(process.ID, "setup"), strings.HasPrefix(process.ID, "monitor"):
		return simulated.Fate{}
	case strings.HasPrefix(process.ID, "sidecar"):
		return simulated.Fate{UntilSignalled: true}
	case !isInstance(container):
		fate := simulated.Fate{After: b.TaskDuration.draw()}
		if happens(b.TaskFailures) {
			fate.Code = 1
		}
		return fate
	case happens(b.Crashes):
		return simulated.Fate{After: b.CrashAfter.draw(), Code: 1}
	default:
		return simulated.Fate{UntilSignalled: true}
	}
}

// isInstance tells an instance of an LRP from a task by a variable that only instances get.
func isInstance(container garden.ContainerSpec) bool {
	return slices.ContainsFunc(container.Env, func(v garden.EnvVar) bool { return v.Name == "INSTANCE_INDEX" })
}
