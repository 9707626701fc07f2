package cell

import (
	"errors"
	"time"

	"diego.internal/servicekit/telemetry"
)

// addReadiness says what must hold for the cell to take work, and what operators want to see beside it.
func (c *Cell) addReadiness(tel *telemetry.Telemetry) {
	tel.AddReadiness("presence", func() (any, error) {
		if !c.registration.Held() {
			return nil, errors.New("the presence of the cell is not held")
		}
		return map[string]string{"owner": c.registration.Owner()}, nil
	})
	tel.AddReadiness("garden", func() (any, error) {
		_, err := c.exec.Healthy()
		if restrictions := c.exec.Restrictions(); len(restrictions) > 0 {
			return map[string][]string{"restrictions": restrictions}, err
		}
		return nil, err
	})
	tel.AddReadiness("bulk_sync", func() (any, error) {
		at, problem := c.reconciler.LastRound()
		detail := map[string]string{"last": at.Format(time.RFC3339)}
		if problem != "" {
			return detail, errors.New(problem)
		}
		return detail, nil
	})
	tel.AddReadiness("evacuation", func() (any, error) {
		if c.evacuator.Evacuating() {
			return c.evacuator.Progress(), errors.New("the cell is evacuating")
		}
		return nil, nil
	})
}
