// Command failpoints shows what test/failpoint finds in the code, and builds it:
//
//	failpoints list         every point: kind, id
//	failpoints build DIR    binaries with failpoints into DIR/bin
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/limiquantix/limiquantix/test/failpoint/rewrite"
	"github.com/limiquantix/limiquantix/test/stack"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "failpoints:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	root, err := stack.Root()
	if err != nil {
		return err
	}
	switch {
	case len(args) == 1 && args[0] == "list":
		points, err := list(root)
		for _, p := range points {
			fmt.Printf("%-8s  %s\n", p.Kind, p.ID)
		}
		return err
	case len(args) == 2 && args[0] == "build":
		built, err := rewrite.Build(context.Background(), root, args[1])
		if err == nil {
			fmt.Printf("%d points in %s\n", len(built.Points), built.Bin)
		}
		return err
	}
	return errors.New("usage: failpoints list | failpoints build DIR")
}

// list are the points of the product's processes and of the plugins.
func list(root string) ([]rewrite.Point, error) {
	points, err := rewrite.Find(root, rewrite.Processes)
	if err != nil {
		return nil, err
	}
	for _, p := range rewrite.Plugins {
		more, err := rewrite.Find(root, []rewrite.Process{p})
		if err != nil {
			return nil, err
		}
		points = append(points, more...)
	}
	return points, nil
}
