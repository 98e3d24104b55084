// Package consistency runs fleets of nodes with real Redis servers through random faults,
// writes down what clients did and saw, and checks it against what docs/fleet.md
// promises. Each history is made from a seed, which is printed:
//
//	go test ./consistency -run Histories -seed 42 -histories 1 -v
//
// The checkers are tested by histories with errors planted in them.
package consistency
