package registry

// node is one path segment under a host. A node without pool only leads to others.
type node struct {
	pool     *Pool
	children map[string]*node
}

// insert returns the pool for the segments below n, making it with create if there is none.
func (n *node) insert(segments []string, create func() *Pool) *Pool {
	for _, s := range segments {
		child := n.children[s]
		if child == nil {
			child = &node{}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			n.children[s] = child
		}
		n = child
	}
	if n.pool == nil {
		n.pool = create()
	}
	return n.pool
}

// match returns the pool with the longest prefix of segments that has endpoints. Only if there is none does an
// empty pool that is still kept count, so that its former users read "no endpoints" and not "no such route".
func (n *node) match(segments []string) *Pool {
	var live, empty *Pool
	for i := 0; n != nil; i++ {
		switch {
		case n.pool == nil:
		case n.pool.Len() > 0:
			live = n.pool
		default:
			empty = n.pool
		}
		if i == len(segments) {
			break
		}
		n = n.children[segments[i]]
	}
	if live != nil {
		return live
	}
	return empty
}

// remove deletes the pool of segments and every node on the way that leads nowhere else. It reports whether n
// itself leads nowhere now.
func (n *node) remove(segments []string) bool {
	if len(segments) == 0 {
		n.pool = nil
	} else if child := n.children[segments[0]]; child != nil && child.remove(segments[1:]) {
		delete(n.children, segments[0])
	}
	return n.pool == nil && len(n.children) == 0
}
