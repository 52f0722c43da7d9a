package command

import metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"

// object is any message that carries meta.
type object interface{ GetMeta() *metav1.ObjectMeta }

func nameOf[T object](o T) string { return o.GetMeta().GetName() }

func namesOf[T object](items []T) []string {
	var out []string
	for _, o := range items {
		out = append(out, nameOf(o))
	}
	return out
}
