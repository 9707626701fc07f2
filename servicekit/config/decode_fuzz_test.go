package config

import (
	"testing"
	"time"
)

// fuzzed has a field of each kind that configurations have.
type fuzzed struct {
	Name     string                   `yaml:"name"`
	Wait     time.Duration            `yaml:"wait"`
	Share    float64                  `yaml:"share"`
	Inside   fuzzedSection            `yaml:"inside"`
	Sections []fuzzedSection          `yaml:"sections"`
	ByName   map[string]fuzzedSection `yaml:"by_name"`
	Optional *fuzzedSection           `yaml:"optional"`
}

type fuzzedSection struct {
	Addresses []string `yaml:"addresses"`
	Count     int32    `yaml:"count"`
}

// Validate refuses what is negative.
func (s *fuzzedSection) Validate() error {
	if s.Count < 0 {
		return Invalid("count", "must not be negative, is %d", s.Count)
	}
	return nil
}

// FuzzDecode reads any configuration file. Nothing that a section refuses gets through.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"name: a\nwait: 10s\nshare: 0.5\ninside: {addresses: [a, b], count: 1}\nsections: [{count: 2}]\nby_name: {x: {count: 3}}\noptional: {count: 4}\n",
		"inside: {count: -1}\n", "sections: [{count: -1}, {count: x}]\n", "nam: a\n", "a: &a [*a]\n", "---\n---\n", "wait: 10\n", "[]", "", "\t", "name: [",
		"by_name: {? {a: b} : {count: -1}}\n", "<<: {name: a}\n", "optional: null\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var target fuzzed
		if decode("file.yml", data, &target) != nil {
			return
		}
		sections := append([]fuzzedSection{target.Inside}, target.Sections...)
		for _, s := range target.ByName {
			sections = append(sections, s)
		}
		if target.Optional != nil {
			sections = append(sections, *target.Optional)
		}
		for _, s := range sections {
			if s.Validate() != nil {
				t.Fatalf("accepted %+v", target)
			}
		}
	})
}
