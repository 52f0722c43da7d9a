// Package enrol turns a join token into a node: Enrol trades token and certificate request for a certificate, Renew a certificate for the next.
// Whatever it grants is on record before it is given out, in the one commit that uses up the token.
package enrol
