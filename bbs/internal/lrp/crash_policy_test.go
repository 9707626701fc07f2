package lrp

import (
	"testing"
	"time"
)

func TestDelayOfTheBuiltInPolicy(t *testing.T) {
	t.Parallel()
	for count, want := range map[int32]time.Duration{
		3: 30 * time.Second, 4: time.Minute, 5: 2 * time.Minute, 6: 4 * time.Minute, 7: 8 * time.Minute,
		8: 16 * time.Minute, 9: 16 * time.Minute, 199: 16 * time.Minute,
	} {
		if got, restarts := defaults.Delay(count); got != want || !restarts {
			t.Errorf("Delay(%d) = %v, %v, want %v", count, got, restarts, want)
		}
	}
	for _, count := range []int32{200, 201, 1 << 30} {
		if got, restarts := defaults.Delay(count); restarts {
			t.Errorf("Delay(%d) = %v, want never", count, got)
		}
	}
}

func TestRestartsAtOnce(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		policy CrashPolicy
		at     map[int32]bool
	}{
		"built in":                        {CrashPolicy{}, map[int32]bool{1: true, 2: true, 3: false, 200: false}},
		"never at once":                   {CrashPolicy{ImmediateRestarts: new(uint32(0))}, map[int32]bool{1: false}},
		"nine":                            {CrashPolicy{ImmediateRestarts: new(uint32(9))}, map[int32]bool{8: true, 9: false}},
		"one attempt leaves none at once": {CrashPolicy{ImmediateRestarts: new(uint32(0)), MaxRestartAttempts: new(uint32(1))}, map[int32]bool{1: false}},
		"without limit":                   {CrashPolicy{MaxRestartAttempts: new(uint32(0))}, map[int32]bool{2: true, 3: false}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for count, want := range test.at {
				if got := test.policy.resolve().RestartsAtOnce(count); got != want {
					t.Errorf("RestartsAtOnce(%d) = %v", count, got)
				}
			}
		})
	}
}

func TestDelayReachesTheLongestDelayExactly(t *testing.T) {
	t.Parallel()
	// The reference would hold this at 60 s.
	p := (&CrashPolicy{MaxSecondsBetweenRestarts: new(uint32(90))}).resolve()
	for count, want := range map[int32]time.Duration{3: 30 * time.Second, 4: time.Minute, 5: 90 * time.Second, 50: 90 * time.Second} {
		if got, _ := p.Delay(count); got != want {
			t.Errorf("Delay(%d) = %v, want %v", count, got, want)
		}
	}
	if _, restarts := (&CrashPolicy{MaxRestartAttempts: new(uint32(0))}).resolve().Delay(1 << 30); !restarts {
		t.Error("a policy without limit gave up")
	}
}

// A policy that contradicts itself is refused, but one may have been stored before it was: then the
// number after which an instance stays down counts.
func TestGivenUpIsNeverRestartedAtOnce(t *testing.T) {
	t.Parallel()
	contradiction := Policy{ImmediateRestarts: 5, MaxDelay: time.Minute, MaxRestartAttempts: 2}
	for count, want := range map[int32]bool{1: true, 2: false, 3: false} {
		if got := contradiction.RestartsAtOnce(count); got != want {
			t.Errorf("RestartsAtOnce(%d) = %v", count, got)
		}
	}
}

func TestResolvePolicy(t *testing.T) {
	t.Parallel()
	own := &Desired{CrashPolicy: &CrashPolicy{ImmediateRestarts: new(uint32(1))}}
	domain := &Domain{DefaultCrashPolicy: &CrashPolicy{ImmediateRestarts: new(uint32(5)), MaxRestartAttempts: new(uint32(7))}}
	tests := map[string]struct {
		d    *Desired
		dom  *Domain
		want Policy
	}{
		"its own, nothing of the domain's": {own, domain, Policy{1, 960 * time.Second, 200}},
		"the domain's":                     {&Desired{}, domain, Policy{5, 960 * time.Second, 7}},
		"the domain's if nothing desires":  {nil, domain, Policy{5, 960 * time.Second, 7}},
		"built in":                         {&Desired{}, &Domain{}, Policy{3, 960 * time.Second, 200}},
		"built in without anything":        {nil, nil, Policy{3, 960 * time.Second, 200}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			diff(t, "policy", test.want, ResolvePolicy(test.d, test.dom))
		})
	}
}

func TestCrashPolicyValid(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		policy CrashPolicy
		field  string
	}{
		"empty":                          {CrashPolicy{}, ""},
		"ten at once":                    {CrashPolicy{ImmediateRestarts: new(uint32(10))}, "number_of_immediate_restarts"},
		"30 s is not more than 30 s":     {CrashPolicy{MaxSecondsBetweenRestarts: new(uint32(30))}, "max_seconds_between_restarts"},
		"31 s":                           {CrashPolicy{MaxSecondsBetweenRestarts: new(uint32(31))}, ""},
		"more at once than ever":         {CrashPolicy{ImmediateRestarts: new(uint32(5)), MaxRestartAttempts: new(uint32(5))}, "number_of_immediate_restarts"},
		"built-in at once, fewer ever":   {CrashPolicy{MaxRestartAttempts: new(uint32(3))}, "number_of_immediate_restarts"},
		"without limit nothing is fewer": {CrashPolicy{ImmediateRestarts: new(uint32(9)), MaxRestartAttempts: new(uint32(0))}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if field, problem := test.policy.Valid(); field != test.field || (problem == "") != (test.field == "") {
				t.Errorf("Valid() = %q, %q, want field %q", field, problem, test.field)
			}
		})
	}
}

func TestRestartDue(t *testing.T) {
	t.Parallel()
	a := crashedRow()
	a.CrashCount = 4
	if due, ok := defaults.RestartDue(a); !ok || time.Unix(0, due).Sub(a.SinceTime()) != time.Minute {
		t.Errorf("due %v after the crash, %v", time.Unix(0, due).Sub(a.SinceTime()), ok)
	}
	a.CrashCount = 200
	if _, ok := defaults.RestartDue(a); ok {
		t.Error("an instance that is given up is due")
	}
	if _, ok := defaults.RestartDue(runningOn(cell1)); ok {
		t.Error("a running instance is due")
	}
}
