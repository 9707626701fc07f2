package executor

import "diego.internal/executor/logs"

// Announce writes a line of the platform into the log of a container, past its limits. A container that is not there, or
// has no log yet, gets none.
func (c *Client) Announce(guid, text string) {
	if n, err := c.node(guid); err == nil {
		n.platform(logs.Out, "%s", text)
	}
}
