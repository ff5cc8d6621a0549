<?php

// app/Http/Controllers/ShowTokenController.php

namespace App\Http\Controllers;

use Illuminate\Auth\AuthenticationException;
use Illuminate\Http\JsonResponse;
use Illuminate\Http\Request;
use Laravel\Sanctum\PersonalAccessToken;

/** Tells the bearer of a token what the token is: the gateway's introspection call. */
class ShowTokenController extends Controller
{
    public function __invoke(Request $request): JsonResponse
    {
        $token = $request->user()->currentAccessToken();

        // Sanctum also lets session cookies in, with a TransientToken that may do everything.
        if (! $token instanceof PersonalAccessToken) {
            throw new AuthenticationException;
        }

        // The application's own expiration, in minutes, also ends tokens without `expires_at`.
        $expiration = config('sanctum.expiration');
        $expiresAt = collect([
            $token->expires_at,
            $expiration ? $token->created_at->copy()->addMinutes((int) $expiration) : null,
        ])->filter()->min();

        return response()->json(['data' => [
            'id' => (string) $token->getKey(),
            'name' => $token->name,
            'abilities' => $token->abilities,
            'expires_at' => $expiresAt?->toRfc3339String(),
        ]])->header('Cache-Control', 'no-store');
    }
}
