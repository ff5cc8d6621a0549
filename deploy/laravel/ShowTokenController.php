<?php

// app/Http/Controllers/ShowTokenController.php

namespace App\Http\Controllers;

use App\Models\User;
use Illuminate\Auth\AuthenticationException;
use Illuminate\Http\JsonResponse;
use Illuminate\Http\Request;
use Laravel\Sanctum\PersonalAccessToken;

/** Answers the gateway's introspection: describes the token of the request. */
class ShowTokenController extends Controller
{
    public function __invoke(Request $request): JsonResponse
    {
        $token = $request->user()->currentAccessToken();

        // Sanctum also accepts session cookies, with a TransientToken that may do everything.
        if (! $token instanceof PersonalAccessToken) {
            throw new AuthenticationException;
        }

        // The application's own expiration, in minutes, also ends tokens without `expires_at`.
        $expiration = config('sanctum.expiration');
        $expiresAt = collect([
            $token->expires_at,
            $expiration ? $token->created_at->copy()->addMinutes((int) $expiration) : null,
        ])->filter()->min();

        // Tokens of users, and of workspaces. Adapt this line if your workspaces issue tokens in another way.
        $isInstance = ! $token->tokenable instanceof User;

        return response()->json(['data' => [
            'id' => (string) $token->getKey(),
            'name' => $token->name,
            'abilities' => $token->abilities,
            'expires_at' => $expiresAt?->toRfc3339String(),
            'created_at' => $token->created_at->toRfc3339String(),
            'context' => $isInstance ? 'instance' : 'user',
            'workspace_id' => $isInstance ? (string) $token->tokenable->getKey() : null,
        ]])->header('Cache-Control', 'no-store');
    }
}
